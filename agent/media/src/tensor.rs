//! Pixels into the model's input tensor.
//!
//! Resampling is bicubic (a = -0.5) with its support widened when it shrinks, as in Pillow, which the models' own
//! recipes use.

use engine::{BufferMut, DataType, Tensor};
use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use serve::{Channels, ImageConfig, Layout};
use wire::NamedTensor;

use crate::Error;
use crate::fit::{Fit, Place};

/// A photo as the model's input, batch axis included, and how it lies over the photo.
#[derive(Debug)]
pub struct Prepared {
    /// FP32, `(x - mean) / std` per channel.
    pub input: NamedTensor,
    pub place: Place,
}

/// The longest side of a model's image.
const SIDE_LIMIT: u32 = 8192;

pub(crate) fn check(config: &ImageConfig) -> Result<(), Error> {
    let refuse = |detail: String| Err(Error::Config { block: "image", detail });
    let (width, height) = (config.width, config.height);
    if ![width, height].iter().all(|side| (1..=SIDE_LIMIT).contains(side)) {
        return refuse(format!("{width} x {height}: each side must be 1 to {SIDE_LIMIT}"));
    }
    if !config.std.iter().all(|std| std.is_normal()) || !config.mean.iter().all(|mean| mean.is_finite()) {
        return refuse(format!("mean {:?} and std {:?} must be numbers, std not 0", config.mean, config.std));
    }
    Ok(())
}

/// Bytes of the tensor.
pub(crate) fn len(config: &ImageConfig) -> usize {
    size_of::<f32>() * 3 * as_usize(config.width) * as_usize(config.height)
}

/// Fits the photo into the model's image and normalises it into `buffer`, which has [`len`] bytes.
pub(crate) fn fill(photo: &RgbImage, config: &ImageConfig, mut buffer: BufferMut) -> Result<Prepared, Error> {
    let (photo_size, model) = ([photo.width(), photo.height()], [config.width, config.height]);
    let fit = Fit::of(config.resize, photo_size, model);
    let scaled = resize(photo, &fit)
        .ok_or_else(|| Error::Config { block: "image", detail: "cannot be scaled to".to_owned() })?;

    let [columns, rows] = model.map(as_usize);
    // In elements: channel, row, column.
    let stride = match config.layout {
        Layout::Nchw => [columns * rows, columns, 1],
        Layout::Nhwc => [1, columns * 3, 3],
    };
    let tables = tables(config);
    let place = buffer.bytes_mut();
    if fit.size != model {
        blacken(place, config.layout, &tables);
    }
    let [left, top] = fit.pad.map(as_usize);
    let width = as_usize(fit.size[0]);
    for (y, row) in scaled.buffer().chunks_exact(3 * width).enumerate() {
        let start = (top + y) * stride[1] + left * stride[2];
        for (channel, table) in tables.iter().enumerate() {
            let source = match config.channels {
                Channels::Rgb => channel,
                Channels::Bgr => 2 - channel,
            };
            let start = size_of::<f32>() * (start + channel * stride[0]);
            let row_place = place.get_mut(start..).unwrap_or_default();
            let elements = row_place.chunks_mut(size_of::<f32>() * stride[2]);
            for (element, pixel) in elements.zip(row.as_chunks::<3>().0) {
                if let Some(element) = element.first_chunk_mut::<4>() {
                    *element = table[usize::from(pixel[source])];
                }
            }
        }
    }
    let shape = match config.layout {
        Layout::Nchw => vec![1, 3, rows, columns],
        Layout::Nhwc => vec![1, rows, columns, 3],
    };
    let tensor = Tensor::new(DataType::Fp32, shape, buffer.freeze())
        .map_err(|error| Error::Config { block: "image", detail: error.to_string() })?;
    let input = NamedTensor { name: config.input.clone(), tensor };
    Ok(Prepared { input, place: fit.place(photo_size) })
}

/// The part of the photo that is used, in its new size.
fn resize(photo: &RgbImage, fit: &Fit) -> Option<Image<'static>> {
    let [x, y, width, height] = fit.cut;
    let source = ImageRef::new(photo.width(), photo.height(), photo.as_raw(), PixelType::U8x3).ok()?;
    let part = CroppedImage::new(&source, x, y, width, height).ok()?;
    let mut scaled = Image::new(fit.size[0], fit.size[1], PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new().resize(&part, &mut scaled, &options).ok()?;
    Some(scaled)
}

/// What the photo does not cover is black.
fn blacken(place: &mut [u8], layout: Layout, tables: &[[[u8; 4]; 256]; 3]) {
    let plane = place.len() / 3;
    let (elements, _) = place.as_chunks_mut::<4>();
    for (at, element) in elements.iter_mut().enumerate() {
        let channel = match layout {
            Layout::Nchw => at * size_of::<f32>() / plane.max(1),
            Layout::Nhwc => at % 3,
        };
        *element = tables[channel.min(2)][0];
    }
}

/// Per channel sent, what each of the 256 values becomes: little-endian f32.
fn tables(config: &ImageConfig) -> [[[u8; 4]; 256]; 3] {
    std::array::from_fn(|channel| {
        let normalise = |value: u8| (f32::from(value) - config.mean[channel]) / config.std[channel];
        let mut table = [[0; 4]; 256];
        for (value, element) in (0..=u8::MAX).zip(&mut table) {
            *element = normalise(value).to_le_bytes();
        }
        table
    })
}

fn as_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
