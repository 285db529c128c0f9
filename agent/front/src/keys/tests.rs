use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn parse(text: &str) -> Result<Table, String> {
    file::parse(&text.replace("AAA", A).replace("BBB", B), None)
}

#[test]
fn a_mistake_is_named_without_a_value() {
    let check = |text: &str, word: &str| {
        let said = parse(text).unwrap_err();
        assert!(said.contains(word), "{text}: '{said}' has no '{word}'");
        assert!(!said.contains("mast_"), "{said}");
    };
    check("", "no [[key]]");
    check("[[key]]\nid = \"a\"\n", "key 'a': sha256 or certificate_sha256 is missing");
    check("[[key]]\nsha256 = \"AAA\"\n", "missing field `id`");
    check("[[key]]\nid = \"\"\nsha256 = \"AAA\"", "the id of [[key]] 1");
    check("[[key]]\nid = \"a b\"\nsha256 = \"AAA\"", "the id of [[key]] 1");
    check("[[key]]\nid = \"a\"\nsha256 = \"mast_12\"", "key 'a': sha256 must be 64");
    check("[[key]]\nid = \"a\"\nsha256 = \"AAA\"\nkey = \"mast_1\"", "line 4: unknown field `key`");
    check(
        "[[key]]\nid = \"a\"\nsha256 = \"AAA\"\nadmin = \"mast_1\"",
        "line 4: it is malformed, unknown or of",
    );
    check("[[key]]\nid = \"a\"\nmast_1\n", "line 3: it is malformed");
    check(&format!("[[key]]\nid = \"a\"\nmast_{A} = 1"), "line 3: it is malformed, unknown");
    let twice = "[[key]]\nid = \"a\"\nsha256 = \"AAA\"\n[[key]]\nid = \"a\"\nsha256 = \"BBB\"";
    check(twice, "key 'a': the id stands twice");
    check(&twice.replacen("\"a\"", "\"b\"", 1).replace("BBB", "AAA"), "another key has the same digest");
    let with = |line: &str| format!("[[key]]\nid = \"a\"\nsha256 = \"AAA\"\n{line}");
    check(&with("certificate_sha256 = \"mast_1\""), "certificate_sha256 must be 64");
    check(&with("tenant = \"\""), "tenant");
    check(&with("tenant = \"a\\nb\""), "tenant");
    check(&with("models = [\"\"]"), "models");
    check(&with("burst = 3"), "burst needs");
    check(&with("requests_per_second = 0.0"), "requests_per_second must be");
    check(&with("requests_per_second = nan"), "requests_per_second must be");
    check(&with("requests_per_second = 5.0\nburst = 0"), "burst must be at least 1");
    check(&with("expires = 2027-01-01T00:00:00"), "needs an offset");
    check(&with("expires = 12:00:00"), "expires must be");
    let many: String =
        (0..4097).map(|id| format!("[[key]]\nid = \"{id}\"\nsha256 = \"{id:064x}\"\n")).collect();
    check(&many, "more than 4096");
}

#[test]
fn an_end_is_a_moment() {
    let check = |expires: &str, unix_s: u64| {
        let text = format!("[[key]]\nid = \"a\"\nsha256 = \"AAA\"\nexpires = {expires}");
        assert_eq!(parse(&text).unwrap().keys["a"].expires_unix_s, Some(unix_s), "{expires}");
    };
    check("2027-01-31", 1_801_353_600);
    check("2027-01-31T00:00:00Z", 1_801_353_600);
    check("2027-01-31T02:00:00+02:00", 1_801_353_600);
    check("2027-01-30T22:30:00-01:30", 1_801_353_600);
    check("2027-01-31T00:00:59.5Z", 1_801_353_659);
}

#[test]
fn a_star_stands_for_any_characters() {
    let check = |pattern: &str, name: &str, expected: bool| {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    };
    for (pattern, yes, no) in [
        ("*", "anything", None),
        ("yolo", "yolo", Some("yolov8")),
        ("yolo*", "yolo", Some("a-yolo")),
        ("*yolo", "a-yolo", Some("yolov8")),
        ("a*a", "aba", Some("a")),
        ("a*b*c", "a-b-b-c", Some("a-c-b")),
        ("a**c", "abc", Some("ab")),
        ("ä*", "äö", Some("a")),
    ] {
        check(pattern, yes, true);
        no.into_iter().for_each(|no| check(pattern, no, false));
    }
    check("", "", true);
    check("", "a", false);
}

#[test]
fn a_key_is_found_by_its_digest_alone() {
    let made = new_key().unwrap();
    assert_ne!(made.key, new_key().unwrap().key);
    assert_eq!(made.sha256, hex::encode(digest(made.key.as_bytes())));
    let table =
        parse(&format!("[[key]]\nid = \"a\"\nsha256 = \"{}\"\ncertificate_sha256 = \"BBB\"", made.sha256));
    let table = table.unwrap();
    assert!(table.by_key.find(&digest(made.key.as_bytes())).is_some_and(|key| key.id == "a"));
    assert!(table.by_key.find(&digest(made.sha256.as_bytes())).is_none());
    assert!(table.by_key.find(&[0xbb; 32]).is_none(), "a certificate's digest is no key's");
    assert!(table.by_certificate.find(&[0xbb; 32]).is_some());
    // Nothing that is printed leads to the key, or names the tenant.
    let told = format!("{made:?} {table:?}");
    assert!(!told.contains("mast_") && !told.contains(&made.sha256) && !told.contains("bbbb"), "{told}");
}

#[test]
fn a_rate_goes_on_when_the_file_is_read_again() {
    let text = format!("[[key]]\nid = \"a\"\nsha256 = \"{A}\"\nrequests_per_second = 0.01\nburst = 2\n");
    let first = file::parse(&text, None).unwrap();
    assert_eq!(first.keys["a"].spend(), Ok(()));
    let second = file::parse(&text, Some(&first)).unwrap();
    assert_eq!(second.keys["a"].spend(), Ok(()));
    assert!(second.keys["a"].spend().is_err());
    let other = file::parse(&text.replace("\"a\"", "\"b\""), Some(&second)).unwrap();
    assert_eq!(other.keys["b"].spend(), Ok(()));
}

#[test]
fn a_burst_is_a_second_unless_stated() {
    let spent = |rate: &str| {
        let table = parse(&format!("[[key]]\nid = \"a\"\nsha256 = \"AAA\"\n{rate}")).unwrap();
        (0..200).filter(|_| table.keys["a"].spend().is_ok()).count()
    };
    assert_eq!(spent(""), 200);
    assert_eq!(spent("requests_per_second = 0.2"), 1);
    assert_eq!(spent("requests_per_second = 0.5\nburst = 7"), 7);
    assert!((3..=4).contains(&spent("requests_per_second = 2.5")));
}
