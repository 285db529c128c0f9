//! A photo into a model's input tensor, as the model's `[image]` block says, and its boxes back to the photo.
//!
//! Resampling is bicubic (a = -0.5) with its support widened when it shrinks, as in Pillow, which the models'
//! own recipes use. Orientation in EXIF is applied first: the pixels are those that a person sees.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, RgbImage};
use serve::{Channels, ImageConfig, Layout, Resize};

/// Photos above this many pixels are refused before they are decoded.
pub(crate) const PIXEL_LIMIT: u64 = 64_000_000;
/// What the decoder may allocate: [`PIXEL_LIMIT`] at four bytes each, and room for its own tables.
const DECODE_LIMIT_BYTES: u64 = 4 * PIXEL_LIMIT + (16 << 20);

/// The longest side of a model's image.
const SIDE_LIMIT: u32 = 8192;

/// Why a photo became no tensor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PhotoError {
    #[error("not a JPEG or PNG photo")]
    Format,
    #[error("the photo has {width} x {height} pixels; at most {PIXEL_LIMIT} are decoded")]
    TooLarge { width: u32, height: u32 },
    #[error("cannot decode the photo")]
    Decode { source: image::ImageError },
    #[error("the model's [image] is {width} x {height}; each side must be 1 to {SIDE_LIMIT}")]
    Size { width: u32, height: u32 },
}

/// A tensor of one image, batch axis included, and how it lies over the photo.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prepared {
    pub(crate) shape: [usize; 4],
    /// Row major, `(x - mean) / std` per channel.
    pub(crate) values: Vec<f32>,
    pub(crate) place: Place,
}

/// Where the model's image lies in the photo: `photo = model * scale + offset`, in pixels, per axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    pub(crate) scale: [f32; 2],
    pub(crate) offset: [f32; 2],
    /// Width and height of the photo.
    pub(crate) photo: [f32; 2],
}

impl Place {
    /// A box `[x0, y0, x1, y1]` of the model's image in pixels of the photo, cut at its edges.
    pub(crate) fn to_photo(self, model: [f32; 4]) -> [f32; 4] {
        let axis = |value: f32, axis: usize| {
            value.mul_add(self.scale[axis], self.offset[axis]).clamp(0.0, self.photo[axis])
        };
        [axis(model[0], 0), axis(model[1], 1), axis(model[2], 0), axis(model[3], 1)]
    }
}

/// Decodes a JPEG or PNG within the limits and turns it upright.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, PhotoError> {
    let reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|_| PhotoError::Format)?;
    if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
        return Err(PhotoError::Format);
    }
    let failed = |source| PhotoError::Decode { source };
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXEL_LIMIT {
        return Err(PhotoError::TooLarge { width, height });
    }
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(DECODE_LIMIT_BYTES);
    decoder.set_limits(limits).map_err(failed)?;
    let orientation = decoder.orientation().map_err(failed)?;
    let mut photo = DynamicImage::from_decoder(decoder).map_err(failed)?;
    photo.apply_orientation(orientation);
    Ok(photo.into_rgb8())
}

/// Fits the photo into the model's image and normalises it.
pub(crate) fn prepare(photo: &RgbImage, config: &ImageConfig) -> Result<Prepared, PhotoError> {
    let (width, height) = (config.width, config.height);
    if ![width, height].iter().all(|side| (1..=SIDE_LIMIT).contains(side)) {
        return Err(PhotoError::Size { width, height });
    }
    let fit = Fit::of(config.resize, [photo.width(), photo.height()], [width, height]);
    let cut = imageops::crop_imm(photo, fit.cut[0], fit.cut[1], fit.cut[2], fit.cut[3]);
    let scaled = imageops::resize(&*cut, fit.size[0], fit.size[1], FilterType::CatmullRom);

    let [columns, rows] = [width, height].map(as_usize);
    let stride = match config.layout {
        // (channel, row, column)
        Layout::Nchw => [columns * rows, columns, 1],
        Layout::Nhwc => [1, columns * 3, 3],
    };
    let mut values = vec![0.0_f32; columns * rows * 3];
    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
        // What the photo does not cover is black.
        let inside = x.checked_sub(fit.pad[0]).zip(y.checked_sub(fit.pad[1]));
        let pixel = inside.and_then(|(x, y)| scaled.get_pixel_checked(x, y)).map_or([0; 3], |pixel| pixel.0);
        let at = as_usize(y) * stride[1] + as_usize(x) * stride[2];
        for channel in 0..3 {
            let source = match config.channels {
                Channels::Rgb => channel,
                Channels::Bgr => 2 - channel,
            };
            let value = (f32::from(pixel[source]) - config.mean[channel]) / config.std[channel];
            values[at + channel * stride[0]] = value;
        }
    }
    let shape = match config.layout {
        Layout::Nchw => [1, 3, rows, columns],
        Layout::Nhwc => [1, rows, columns, 3],
    };
    Ok(Prepared { shape, values, place: fit.place([photo.width(), photo.height()]) })
}

/// Which part of the photo is used, what size it becomes, and where that lies in the model's image.
#[derive(Debug, PartialEq, Eq)]
struct Fit {
    /// x, y, width, height in the photo.
    cut: [u32; 4],
    size: [u32; 2],
    pad: [u32; 2],
}

impl Fit {
    fn of(resize: Resize, photo: [u32; 2], model: [u32; 2]) -> Self {
        let whole = [0, 0, photo[0], photo[1]];
        match resize {
            Resize::Stretch => Self { cut: whole, size: model, pad: [0, 0] },
            // The largest centred part of the model's proportions.
            Resize::Crop => {
                let side = [
                    photo[0].min(rescale(photo[1], model[0], model[1], 0)),
                    photo[1].min(rescale(photo[0], model[1], model[0], 0)),
                ];
                let corner = [(photo[0] - side[0]) / 2, (photo[1] - side[1]) / 2];
                Self { cut: [corner[0], corner[1], side[0], side[1]], size: model, pad: [0, 0] }
            }
            // The whole photo, centred.
            Resize::Letterbox => {
                let size = [
                    model[0].min(rescale(photo[0], model[1], photo[1], photo[1] / 2)),
                    model[1].min(rescale(photo[1], model[0], photo[0], photo[0] / 2)),
                ];
                let pad = [(model[0] - size[0]) / 2, (model[1] - size[1]) / 2];
                Self { cut: whole, size, pad }
            }
        }
    }

    fn place(&self, photo: [u32; 2]) -> Place {
        let mut place = Place { scale: [1.0; 2], offset: [0.0; 2], photo: photo.map(|side| side as f32) };
        for axis in 0..2 {
            let scale = self.cut[axis + 2] as f32 / self.size[axis] as f32;
            place.scale[axis] = scale;
            place.offset[axis] = self.cut[axis] as f32 - self.pad[axis] as f32 * scale;
        }
        place
    }
}

/// `(value * numerator + round) / denominator`, at least 1.
fn rescale(value: u32, numerator: u32, denominator: u32, round: u32) -> u32 {
    let product = u64::from(value) * u64::from(numerator) + u64::from(round);
    u32::try_from(product / u64::from(denominator.max(1))).unwrap_or(u32::MAX).max(1)
}

fn as_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "photo_tests.rs"]
mod tests;
