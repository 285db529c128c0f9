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

/// Shape and values.
fn prepare(photo: &RgbImage, config: &ImageConfig) -> (Vec<usize>, Vec<f32>) {
    check(config).unwrap();
    let prepared = fill(photo, config, BufferMut::heap(len(config))).unwrap();
    let (elements, _) = prepared.input.tensor.data().bytes().as_chunks::<4>();
    let values = elements.iter().map(|element| f32::from_le_bytes(*element)).collect();
    (prepared.input.tensor.shape().to_vec(), values)
}

#[test]
fn layouts_and_channel_orders() {
    let check = |layout: &str, channels: &str, shape: [usize; 4], values: &[f32]| {
        let config = config(&format!(
            "width = 2\nheight = 1\nresize = \"stretch\"\nlayout = \"{layout}\"\nchannels = \"{channels}\""
        ));
        let photo = RgbImage::from_vec(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(prepare(&photo, &config), (shape.to_vec(), values.to_vec()), "{layout} {channels}");
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
    let (_, values) = prepare(&photo, &toml::from_str(text).unwrap());
    assert_eq!(values, [20.0, 10.0, 5.0]); // blue - 10, (green - 20) / 2, (red - 30) / 4
}

#[test]
fn a_block_that_makes_no_sense_is_refused() {
    let check = |rest: &str| {
        let text = format!("input = \"image\"\n{rest}");
        let error = check(&toml::from_str(&text).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Config { block: "image", .. }), "{error}");
    };
    check("width = 0\nheight = 9");
    check("width = 9\nheight = 100000");
    check("width = 9\nheight = 9\nstd = [1, 0, 1]");
    check("width = 9\nheight = 9\nmean = [1, nan, 1]");
}

#[test]
fn crop_takes_the_middle_and_letterbox_pads_with_black() {
    let photo = gradient(4, 2);
    let crop = config("width = 2\nheight = 2\nresize = \"crop\"\nlayout = \"nchw\"\nchannels = \"rgb\"");
    // Columns 1 and 2 of 0..4.
    assert_eq!(prepare(&photo, &crop).1[..4], [10.0, 20.0, 10.0, 20.0]);

    let check = |layout: &str, red: fn(usize) -> usize| {
        let text = format!(
            "input = \"image\"\nwidth = 4\nheight = 4\nresize = \"letterbox\"\nlayout = \"{layout}\"\n\
             channels = \"rgb\"\nmean = [5, 6, 7]\nstd = [1, 1, 1]"
        );
        let (_, values) = prepare(&photo, &toml::from_str(&text).unwrap());
        let red: Vec<f32> = (0..16).map(|at| values[red(at)]).collect();
        assert_eq!(red, [-5., -5., -5., -5., -5., 5., 15., 25., -5., 5., 15., 25., -5., -5., -5., -5.]);
        assert_eq!(values.iter().filter(|value| **value == -7.0).count(), 8, "{layout}: black in blue");
    };
    check("nchw", |at| at);
    check("nhwc", |at| 3 * at);
}

#[test]
fn shrinking_averages_what_it_covers() {
    let stripes = RgbImage::from_fn(64, 8, |x, _| Rgb([if x % 2 == 0 { 0 } else { 200 }; 3]));
    let config = config("width = 8\nheight = 8\nresize = \"stretch\"\nlayout = \"nchw\"\nchannels = \"rgb\"");
    for value in prepare(&stripes, &config).1 {
        assert!((value - 100.0).abs() <= 4.0, "{value}");
    }
}

#[test]
fn a_crop_sees_nothing_beyond_its_edge() {
    // White beside the part that is used; widened support must not reach into it.
    let photo = RgbImage::from_fn(48, 16, |x, _| Rgb([if (16..32).contains(&x) { 0 } else { 255 }; 3]));
    let config = config("width = 4\nheight = 4\nresize = \"crop\"");
    assert!(prepare(&photo, &config).1.iter().all(|value| *value == 0.0));
}
