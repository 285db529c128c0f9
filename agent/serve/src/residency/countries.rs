use wire::Jurisdiction;

/// ISO 3166-1 alpha-2, the officially assigned codes (249).
const ASSIGNED: &str = "\
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY \
BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK \
FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR \
IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK \
ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM \
PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF \
TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW";

/// Whether the code's country is assigned, or one of those ISO 3166-1 leaves to its users (AA, QM-QZ, XA-XZ,
/// ZZ). `EU` is neither: it is only a group, and only where a policy defines it.
pub(super) fn is_country(jurisdiction: &Jurisdiction) -> bool {
    let code = jurisdiction.country();
    let user = matches!(code.as_bytes(), b"AA" | b"ZZ" | [b'Q', b'M'..=b'Z'] | [b'X', _]);
    user || ASSIGNED.as_bytes().chunks(3).any(|chunk| chunk.get(..2) == Some(code.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_sorted() {
        let codes: Vec<_> = ASSIGNED.split(' ').collect();
        assert_eq!(codes.len(), 249);
        assert!(codes.is_sorted() && codes.iter().all(|code| code.len() == 2));
    }

    #[test]
    fn what_is_a_country() {
        let check = |text: &str, expected| assert_eq!(is_country(&text.parse().unwrap()), expected, "{text}");
        for code in ["AD", "DE", "DE-BY", "ZW", "ZZ", "XK", "QM", "AA"] {
            check(code, true);
        }
        for code in ["EU", "UK", "QL", "EU-1", "ZY"] {
            check(code, false);
        }
    }
}
