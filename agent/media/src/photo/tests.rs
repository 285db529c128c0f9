use image::{ExtendedColorType, ImageEncoder as _, Rgb};

use super::*;

/// Red grows with x, green with y, blue is fixed.
fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([u8::try_from(x * 10).unwrap(), u8::try_from(y * 10).unwrap(), 7])
    })
}

fn png(photo: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    photo.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

fn jpeg(photo: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    photo.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg).unwrap();
    bytes
}

fn decode(bytes: &[u8]) -> Result<RgbImage, Error> {
    Photo::open(bytes)?.decode()
}

#[test]
fn what_is_no_photo_is_refused() {
    let check = |bytes: &[u8], part: &str| {
        let error = decode(bytes).unwrap_err();
        assert!(error.to_string().contains(part), "{error} has no '{part}'");
        assert!(error.is_of_the_request());
    };
    let good = png(&gradient(4, 2).into());
    assert_eq!(decode(&good).unwrap(), gradient(4, 2));
    check(b"GIF89a", "JPEG or PNG");
    check(b"", "JPEG or PNG");
    check(&good[..40], "cannot decode");
    check(&good[..good.len() - 20], "cannot decode");
    // A header that promises 65535 x 65535 pixels in 60 bytes.
    let mut bomb = good.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    check(&bomb, "65535 x 65535 pixels");
}

#[test]
fn a_jpeg_that_was_cut_off_on_its_way_is_refused() {
    let whole = jpeg(&gradient(24, 24).into());
    assert!(decode(&whole).is_ok());
    for end in 1..whole.len() {
        let error = decode(&whole[..end]).unwrap_err();
        assert!(matches!(error, Error::CutOff | Error::NotAPhoto | Error::Decode { .. }), "{end}: {error}");
    }
}

#[test]
fn every_kind_of_pixel_becomes_rgb() {
    let check = |name: &str, photo: DynamicImage, expected: [u8; 3]| {
        assert_eq!(decode(&png(&photo)).unwrap().get_pixel(0, 0).0, expected, "{name}");
    };
    check("grey", DynamicImage::ImageLuma8(image::ImageBuffer::from_pixel(2, 2, image::Luma([9]))), [9; 3]);
    check(
        "grey, 16 bits",
        DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(2, 2, image::Luma([0x0909]))),
        [9; 3],
    );
    check(
        "16 bits",
        DynamicImage::ImageRgb16(image::ImageBuffer::from_pixel(2, 2, Rgb([0x0101, 0x0202, 0xffff]))),
        [1, 2, 255],
    );
    check(
        "alpha is left out",
        DynamicImage::ImageRgba8(image::ImageBuffer::from_pixel(2, 2, image::Rgba([1, 2, 3, 0]))),
        [1, 2, 3],
    );
    let grey = image::ImageBuffer::from_pixel(8, 8, image::Luma([100]));
    assert_eq!(decode(&jpeg(&DynamicImage::ImageLuma8(grey))).unwrap().get_pixel(3, 3).0, [100; 3]);
}

#[test]
fn the_photo_is_turned_upright() {
    // EXIF with one entry: orientation 6, "the right side is up" (TIFF 6.0, tag 0x112).
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    encoder.set_exif_metadata(exif[6..].to_vec()).unwrap();
    encoder.write_image(gradient(4, 2).as_raw(), 4, 2, ExtendedColorType::Rgb8).unwrap();
    let upright = decode(&bytes).unwrap();
    assert_eq!(upright.dimensions(), (2, 4));
    assert_eq!(upright.get_pixel(1, 0), gradient(4, 2).get_pixel(0, 0));

    let mut bytes = jpeg(&gradient(16, 8).into());
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    bytes.splice(2..2, [&[0xff, 0xe1], &length[..], exif].concat());
    assert_eq!(decode(&bytes).unwrap().dimensions(), (8, 16));
}

#[test]
fn memory_is_known_before_decoding() {
    let check = |bytes: &[u8], expected: u64| {
        assert_eq!(Photo::open(bytes).unwrap().memory_bytes(), expected);
    };
    check(&png(&gradient(4, 2).into()), 2 * 3 * 8);
    check(&jpeg(&gradient(4, 2).into()), 2 * 3 * 8);
    check(&png(&DynamicImage::new_rgba16(4, 2)), (8 + 3) * 8);
}

/// CRC-32 as PNG has it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
