//! The markers of a JPEG (ITU-T T.81, annex B), walked without decoding: the decoder paints grey over what is
//! missing, and a photo that was cut off on its way must not become an answer.

use crate::Error;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const TEM: u8 = 0x01;

/// What the markers say of a whole JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outline {
    /// It comes in several scans, so the decoder keeps the coefficients of all pixels.
    pub(crate) scans: bool,
}

/// # Errors
/// `CutOff` when the bytes end before the end of the image, `Colours` for CMYK.
pub(crate) fn outline(bytes: &[u8]) -> Result<Outline, Error> {
    let mut rest = bytes;
    let (mut components, mut progressive, mut scans) = (0, false, false);
    loop {
        // Entropy-coded data has no 0xff but those that are followed by 0x00 or a restart marker (B.1.1.5).
        let at = rest.iter().position(|byte| *byte == 0xff).ok_or(Error::CutOff)?;
        rest = rest.get(at..).unwrap_or_default();
        let fill = rest.iter().position(|byte| *byte != 0xff).ok_or(Error::CutOff)?;
        let marker = rest.get(fill).copied().ok_or(Error::CutOff)?;
        rest = rest.get(fill + 1..).unwrap_or_default();
        match marker {
            EOI => return Ok(Outline { scans: progressive || scans }),
            0 | TEM | 0xd0..=SOI => continue,
            _ => {}
        }
        let length = rest.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)));
        let segment = length.and_then(|length| rest.get(..length)).ok_or(Error::CutOff)?;
        rest = rest.get(segment.len()..).unwrap_or_default();
        match marker {
            // Frame headers; c4, c8 and cc are others (table B.1).
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                components = segment.get(7).copied().unwrap_or_default();
                progressive = marker & 3 == 2;
                if components > 3 {
                    return Err(Error::Colours { components });
                }
            }
            SOS => scans |= segment.get(2).is_some_and(|count| *count < components),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &[u8] = &[0xff, SOI];
    const END: &[u8] = &[0xff, EOI];
    /// An application segment with a thumbnail of its own in it: start, end and all.
    const THUMBNAIL: &[u8] = &[0xff, 0xe1, 0, 6, 0xff, SOI, 0xff, EOI];
    const DATA: &[u8] = &[1, 2, 0xff, 0, 3, 0xff, 0xd3, 4];

    fn frame(marker: u8, components: u8) -> Vec<u8> {
        vec![0xff, marker, 0, 8, 8, 0, 1, 0, 1, components]
    }

    fn scan(components: u8) -> Vec<u8> {
        vec![0xff, SOS, 0, 3, components]
    }

    #[test]
    fn whole_and_cut() {
        let check = |name: &str, parts: &[&[u8]], scans: Option<bool>| {
            let got = outline(&parts.concat()).ok().map(|outline| outline.scans);
            assert_eq!(got, scans, "{name}");
        };
        let (grey, colour, progressive) = (frame(0xc0, 1), frame(0xc0, 3), frame(0xc2, 3));
        let (one, all) = (scan(1), scan(3));
        check("baseline", &[START, THUMBNAIL, &colour, &all, DATA, END], Some(false));
        check("with something behind it", &[START, &colour, &all, DATA, END, b"more"], Some(false));
        check("fill bytes", &[START, &[0xff, 0xff], &grey, &one, DATA, &[0xff], END], Some(false));
        check("one component a scan", &[START, &colour, &one, DATA, &one, DATA, END], Some(true));
        check("progressive", &[START, &progressive, &all, DATA, &all, DATA, END], Some(true));
        check("only the thumbnail is whole", &[START, THUMBNAIL, &colour, &all, DATA], None);
        check("half an end", &[START, &colour, &all, DATA, &[0xff]], None);
        check("inside a segment", &[START, &colour[..6]], None);
        check("nothing", &[], None);
        let cmyk = [START, &frame(0xc0, 4), &scan(4), DATA, END].concat();
        assert!(matches!(outline(&cmyk), Err(Error::Colours { components: 4 })));
    }
}
