//! JSON numbers to machine numbers, correctly rounded. The short ones, which are nearly all, without the
//! standard library's general parser: that is where the time of a JSON request goes.

/// A number token of well-formed JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    pub(super) text: &'a str,
    negative: bool,
    /// All digits, without the point; valid while `short`.
    mantissa: u64,
    /// The power of ten to multiply with; valid while `short`.
    exponent: i32,
    short: bool,
    integral: bool,
}

const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Integers up to here are exact in f64.
const EXACT_MANTISSA: u64 = 1 << 53;

impl<'a> Number<'a> {
    /// The number at the beginning of `text`; `None` when there is none.
    pub(super) fn scan(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let mut at = 0;
        let negative = bytes.first() == Some(&b'-');
        at += usize::from(negative);
        let (mut mantissa, mut digits, mut exponent) = (0_u64, 0_usize, 0_i32);
        let mut run = |at: &mut usize| {
            let from = *at;
            while let Some(digit) =
                bytes.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
            {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
                *at += 1;
            }
            digits += *at - from;
            *at - from
        };
        if run(&mut at) == 0 {
            return None;
        }
        let mut integral = true;
        if bytes.get(at) == Some(&b'.') {
            integral = false;
            at += 1;
            exponent = i32::try_from(run(&mut at)).map_or(i32::MIN, |places| -places);
        }
        let mut short = digits <= 19;
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            integral = false;
            at += 1;
            let from = at + usize::from(bytes.get(at) == Some(&b'+'));
            at = from + usize::from(bytes.get(from) == Some(&b'-'));
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            match text.get(from..at).and_then(|power| power.parse::<i16>().ok()) {
                Some(power) => exponent = exponent.saturating_add(i32::from(power)),
                None => short = false,
            }
        }
        Some(Self { text: text.get(..at)?, negative, mantissa, exponent, short, integral })
    }

    /// The nearest f64; `None` when it would be infinite.
    pub(super) fn to_f64(self) -> Option<f64> {
        if let (true, Some(power)) = (
            self.short && self.mantissa <= EXACT_MANTISSA,
            usize::try_from(self.exponent.unsigned_abs()).ok().and_then(|power| POWERS.get(power)),
        ) {
            // Both operands are exact, so the one operation rounds correctly (Clinger 1990).
            #[expect(clippy::cast_precision_loss, reason = "at most 2^53")]
            let mantissa = self.mantissa as f64;
            let size = if self.exponent < 0 { mantissa / power } else { mantissa * power };
            return Some(if self.negative { -size } else { size });
        }
        self.text.parse::<f64>().ok().filter(|value| value.is_finite())
    }

    /// The nearest f32; `None` when it would be infinite.
    pub(super) fn to_f32(self) -> Option<f32> {
        let wide = self.to_f64()?;
        // Rounding twice differs from rounding once only where the f64 lies halfway between two f32, and the
        // halfway points of subnormal f32 are at other bits.
        let halfway = wide.to_bits() & 0x1fff_ffff == 0x1000_0000;
        let subnormal = wide != 0.0 && wide.abs() < f64::from(f32::MIN_POSITIVE);
        let value = if halfway || subnormal {
            self.text.parse::<f32>().ok()?
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
            let narrow = wide as f32;
            narrow
        };
        value.is_finite().then_some(value)
    }

    /// The text, when it has neither a point nor an exponent.
    pub(super) fn integer(self) -> Option<&'a str> {
        self.integral.then_some(self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_the_number_and_stops() {
        let check = |text: &str, token: Option<&str>| {
            assert_eq!(Number::scan(text).map(|number| number.text), token, "{text:?}");
        };
        check("1,2", Some("1"));
        check("-0.5e-3]", Some("-0.5e-3"));
        check("1E+10 ", Some("1E+10"));
        check("-", None);
        check("", None);
        check("true", None);
        check("\"1\"", None);
    }

    #[test]
    fn rounds_as_the_standard_library() {
        let check = |text: &str| {
            let number = Number::scan(text).unwrap();
            assert_eq!(number.text, text);
            let wide: f64 = text.parse().unwrap();
            assert_eq!(
                number.to_f64().map(f64::to_bits),
                wide.is_finite().then_some(wide.to_bits()),
                "{text}"
            );
            let narrow: f32 = text.parse().unwrap();
            assert_eq!(
                number.to_f32().map(f32::to_bits),
                narrow.is_finite().then_some(narrow.to_bits()),
                "{text}"
            );
        };
        for text in [
            "0",
            "-0",
            "-0.0",
            "1",
            "0.1",
            "16777217",
            "16777219",
            "1.00000005960464477539",
            "3.4028235e38",
            "3.4028236e38",
            "1e39",
            "1e-45",
            "7e-46",
            "1.1754943e-38",
            "5e-324",
            "1e308",
            "1e309",
            "1e400",
            "9007199254740993",
            "18446744073709551615",
            "123456789012345678901234567890",
            "0.00000000000000000001",
            "1e99999",
            "0e99999",
            "1e-99999",
            "1e22",
            "1e23",
            "8.5899346e9",
        ] {
            check(text);
        }
    }

    proptest! {
        #[test]
        fn any_float_survives(value in any::<f64>(), narrow in any::<f32>()) {
            prop_assume!(value.is_finite() && narrow.is_finite());
            for text in [value.to_string(), format!("{value:e}"), serde_json::to_string(&value).unwrap()] {
                prop_assert_eq!(Number::scan(&text).unwrap().to_f64(), Some(value), "{}", text);
            }
            for text in [narrow.to_string(), format!("{narrow:e}"), serde_json::to_string(&narrow).unwrap()] {
                prop_assert_eq!(Number::scan(&text).unwrap().to_f32(), Some(narrow), "{}", text);
            }
            let text = value.to_string();
            let through_std = text.parse::<f32>().unwrap();
            prop_assert_eq!(
                Number::scan(&text).unwrap().to_f32(),
                through_std.is_finite().then_some(through_std)
            );
        }
    }
}
