use serve::Resize;

/// Where the model's image lies in the photo: `photo = model * scale + offset`, in pixels, per axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    pub scale: [f32; 2],
    pub offset: [f32; 2],
    /// Width and height of the photo.
    pub photo: [f32; 2],
}

impl Place {
    /// A box `[x0, y0, x1, y1]` of the model's image in pixels of the photo, cut at its edges.
    pub fn to_photo(self, model: [f32; 4]) -> [f32; 4] {
        let axis = |value: f32, axis: usize| {
            value.mul_add(self.scale[axis], self.offset[axis]).clamp(0.0, self.photo[axis])
        };
        [axis(model[0], 0), axis(model[1], 1), axis(model[2], 0), axis(model[3], 1)]
    }
}

/// Which part of the photo is used, what size it becomes, and where that lies in the model's image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// x, y, width, height in the photo.
    pub(crate) cut: [u32; 4],
    pub(crate) size: [u32; 2],
    pub(crate) pad: [u32; 2],
}

impl Fit {
    pub(crate) fn of(resize: Resize, photo: [u32; 2], model: [u32; 2]) -> Self {
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

    pub(crate) fn place(&self, photo: [u32; 2]) -> Place {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_part_of_the_photo_goes_where() {
        let check = |resize: Resize,
                     photo: [u32; 2],
                     model: [u32; 2],
                     cut: [u32; 4],
                     size: [u32; 2],
                     pad: [u32; 2]| {
            assert_eq!(
                Fit::of(resize, photo, model),
                Fit { cut, size, pad },
                "{resize:?} {photo:?} {model:?}"
            );
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
    fn boxes_go_back_to_the_photo() {
        let check =
            |resize: Resize, photo: [u32; 2], model: [u32; 2], inside: [f32; 4], expected: [f32; 4]| {
                let got = Fit::of(resize, photo, model).place(photo).to_photo(inside);
                for (got, expected) in got.iter().zip(expected) {
                    assert!((got - expected).abs() < 1e-3, "{resize:?}: {got} instead of {expected}");
                }
            };
        check(Resize::Stretch, [832, 208], [416, 416], [0.0, 0.0, 416.0, 416.0], [0.0, 0.0, 832.0, 208.0]);
        check(
            Resize::Stretch,
            [832, 208],
            [416, 416],
            [104.0, 104.0, 208.0, 208.0],
            [208.0, 52.0, 416.0, 104.0],
        );
        check(Resize::Crop, [400, 200], [100, 100], [0.0, 0.0, 50.0, 100.0], [100.0, 0.0, 200.0, 200.0]);
        check(Resize::Letterbox, [400, 200], [100, 100], [0.0, 25.0, 100.0, 75.0], [0.0, 0.0, 400.0, 200.0]);
        // What sticks out into the padding is cut at the edge of the photo.
        check(
            Resize::Letterbox,
            [400, 200],
            [100, 100],
            [25.0, 0.0, 75.0, 100.0],
            [100.0, 0.0, 300.0, 200.0],
        );
    }
}
