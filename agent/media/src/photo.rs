use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use crate::{Error, jpeg};

/// Photos above this many pixels are refused before they are decoded.
pub const PIXEL_LIMIT: u64 = 64_000_000;

/// What the decoder may allocate: [`PIXEL_LIMIT`] at eight bytes each (PNG, 16 bits and alpha), and room for its
/// own tables.
const DECODE_LIMIT_BYTES: u64 = 8 * PIXEL_LIMIT + (16 << 20);

/// A JPEG or PNG whose head was read, and of whose pixels none was decoded yet.
pub struct Photo<'a> {
    decoder: Box<dyn ImageDecoder + 'a>,
    memory_bytes: u64,
}

impl<'a> Photo<'a> {
    /// # Errors
    /// `NotAPhoto`, `TooManyPixels`, `CutOff`, `Colours`, or `Decode` when the head makes no sense.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Error> {
        let reader = ImageReader::new(Cursor::new(bytes));
        let mut reader = reader.with_guessed_format().map_err(|_| Error::NotAPhoto)?;
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(DECODE_LIMIT_BYTES);
        reader.limits(limits);
        let several_scans = match reader.format() {
            Some(ImageFormat::Jpeg) => jpeg::outline(bytes)?.scans,
            Some(ImageFormat::Png) => false,
            _ => return Err(Error::NotAPhoto),
        };
        let decoder = reader.into_decoder().map_err(|source| Error::Decode { source })?;
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > PIXEL_LIMIT {
            return Err(Error::TooManyPixels { width, height });
        }
        if pixels == 0 {
            return Err(Error::NotAPhoto);
        }
        // As decoded; upright and as RGB; coefficients of 16 bits.
        let memory_bytes = decoder.total_bytes() + 3 * pixels + if several_scans { 6 * pixels } else { 0 };
        Ok(Self { decoder: Box::new(decoder), memory_bytes })
    }

    /// What decoding takes at most, until the tensor is there.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Upright, as EXIF says: the pixels are those that a person sees. 16 bits become 8, grey becomes RGB, alpha
    /// is left out.
    pub(crate) fn decode(mut self) -> Result<RgbImage, Error> {
        let failed = |source| Error::Decode { source };
        let orientation = self.decoder.orientation().map_err(failed)?;
        let mut photo = DynamicImage::from_decoder(self.decoder).map_err(failed)?;
        photo.apply_orientation(orientation);
        Ok(photo.into_rgb8())
    }
}

impl std::fmt::Debug for Photo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Photo").field("dimensions", &self.decoder.dimensions()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
