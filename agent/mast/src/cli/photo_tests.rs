use image::Rgb;

use super::*;

fn config(rest: &str) -> ImageConfig {
    let text = format!("input = \"image\"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n{rest}");
    toml::from_str(&text).unwrap()
}

/// Red grows with x, green with y, blue is fixed.
fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([u8::try_from(x * 10).unwrap(), u8::try_from(y * 10).unwrap(), 7])
    })
}

fn png(photo: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    photo.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

#[test]
fn layouts_and_channel_orders() {
    let check = |layout: &str, channels: &str, shape: [usize; 4], values: &[f32]| {
        let config = config(&format!(
            "width = 2\nheight = 1\nresize = \"stretch\"\nlayout = \"{layout}\"\nchannels = \"{channels}\""
        ));
        let photo = RgbImage::from_vec(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let prepared = prepare(&photo, &config).unwrap();
        assert_eq!(prepared.shape, shape, "{layout} {channels}");
        assert_eq!(prepared.values, values, "{layout} {channels}");
    };
    check("nchw", "rgb", [1, 3, 1, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    check("nchw", "bgr", [1, 3, 1, 2], &[3.0, 6.0, 2.0, 5.0, 1.0, 4.0]);
    check("nhwc", "rgb", [1, 1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    check("nhwc", "bgr", [1, 1, 2, 3], &[3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
}

#[test]
fn mean_and_std_are_in_the_order_of_the_channels_sent() {
    let text = "input = \"image\"\nwidth = 1\nheight = 1\nresize = \"stretch\"\nlayout = \"nchw\"\n\
                channels = \"bgr\"\nmean = [10, 20, 30]\nstd = [1, 2, 4]";
    let photo = RgbImage::from_vec(1, 1, vec![50, 40, 30]).unwrap();
    let prepared = prepare(&photo, &toml::from_str(text).unwrap()).unwrap();
    assert_eq!(prepared.values, [20.0, 10.0, 5.0]); // blue - 10, (green - 20) / 2, (red - 30) / 4
}

#[test]
fn a_model_without_pixels_is_refused() {
    let config = config("width = 0\nheight = 9");
    assert!(matches!(prepare(&gradient(2, 2), &config), Err(PhotoError::Size { width: 0, height: 9 })));
}

#[test]
fn which_part_of_the_photo_goes_where() {
    let check = |resize: Resize,
                 photo: [u32; 2],
                 model: [u32; 2],
                 cut: [u32; 4],
                 size: [u32; 2],
                 pad: [u32; 2]| {
        assert_eq!(Fit::of(resize, photo, model), Fit { cut, size, pad }, "{resize:?} {photo:?} {model:?}");
    };
    check(Resize::Stretch, [400, 300], [416, 416], [0, 0, 400, 300], [416, 416], [0, 0]);
    check(Resize::Crop, [400, 300], [224, 224], [50, 0, 300, 300], [224, 224], [0, 0]);
    check(Resize::Crop, [300, 401], [224, 224], [0, 50, 300, 300], [224, 224], [0, 0]);
    check(Resize::Crop, [400, 300], [200, 50], [0, 100, 400, 100], [200, 50], [0, 0]);
    check(Resize::Crop, [1, 1000], [200, 50], [0, 499, 1, 1], [200, 50], [0, 0]);
    check(Resize::Letterbox, [400, 300], [416, 416], [0, 0, 400, 300], [416, 312], [0, 52]);
    check(Resize::Letterbox, [300, 400], [416, 416], [0, 0, 300, 400], [312, 416], [52, 0]);
    check(Resize::Letterbox, [10_000, 1], [100, 100], [0, 0, 10_000, 1], [100, 1], [0, 49]);
}

#[test]
fn crop_takes_the_middle_and_letterbox_pads_with_black() {
    let photo = gradient(4, 2);
    let crop = config("width = 2\nheight = 2\nresize = \"crop\"\nlayout = \"nchw\"\nchannels = \"rgb\"");
    // Columns 1 and 2 of 0..4.
    assert_eq!(prepare(&photo, &crop).unwrap().values[..4], [10.0, 20.0, 10.0, 20.0]);

    let text = "input = \"image\"\nwidth = 4\nheight = 4\nresize = \"letterbox\"\nlayout = \"nchw\"\n\
                channels = \"rgb\"\nmean = [5, 5, 5]\nstd = [1, 1, 1]";
    let prepared = prepare(&photo, &toml::from_str(text).unwrap()).unwrap();
    let red: Vec<f32> = prepared.values[..16].to_vec();
    assert_eq!(red, [-5., -5., -5., -5., -5., 5., 15., 25., -5., 5., 15., 25., -5., -5., -5., -5.]);
}

#[test]
fn shrinking_averages_what_it_covers() {
    let stripes = RgbImage::from_fn(64, 8, |x, _| Rgb([if x % 2 == 0 { 0 } else { 200 }; 3]));
    let config = config("width = 8\nheight = 8\nresize = \"stretch\"\nlayout = \"nchw\"\nchannels = \"rgb\"");
    for value in prepare(&stripes, &config).unwrap().values {
        assert!((value - 100.0).abs() <= 4.0, "{value}");
    }
}

#[test]
fn boxes_go_back_to_the_photo() {
    let check = |resize: Resize, photo: [u32; 2], model: [u32; 2], inside: [f32; 4], expected: [f32; 4]| {
        let got = Fit::of(resize, photo, model).place(photo).to_photo(inside);
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-3, "{resize:?}: {got} instead of {expected}");
        }
    };
    check(Resize::Stretch, [832, 208], [416, 416], [0.0, 0.0, 416.0, 416.0], [0.0, 0.0, 832.0, 208.0]);
    check(Resize::Stretch, [832, 208], [416, 416], [104.0, 104.0, 208.0, 208.0], [208.0, 52.0, 416.0, 104.0]);
    check(Resize::Crop, [400, 200], [100, 100], [0.0, 0.0, 50.0, 100.0], [100.0, 0.0, 200.0, 200.0]);
    check(Resize::Letterbox, [400, 200], [100, 100], [0.0, 25.0, 100.0, 75.0], [0.0, 0.0, 400.0, 200.0]);
    // What sticks out into the padding is cut at the edge of the photo.
    check(Resize::Letterbox, [400, 200], [100, 100], [25.0, 0.0, 75.0, 100.0], [100.0, 0.0, 300.0, 200.0]);
}

#[test]
fn what_is_no_photo_is_refused() {
    let check = |bytes: &[u8], part: &str| {
        let error = decode(bytes).unwrap_err();
        assert!(error.to_string().contains(part), "{error} has no '{part}'");
    };
    let good = png(&gradient(4, 2));
    assert_eq!(decode(&good).unwrap(), gradient(4, 2));
    check(b"GIF89a", "JPEG or PNG");
    check(b"", "JPEG or PNG");
    check(&good[..40], "cannot decode");
    // A header that promises 65535 x 65535 pixels in 60 bytes.
    let mut bomb = good.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    check(&bomb, "65535 x 65535 pixels");
}

/// CRC-32 as PNG has it (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}
