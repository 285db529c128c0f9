use proptest::prelude::*;
use serde_json::json;
use serve::TextInputs;

use super::*;

/// A tokenizer of BERT's kind with seven words.
fn tokenizer() -> serde_json::Value {
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false })
    };
    let piece = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    json!({
        "version": "1.0",
        "truncation": { "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": { "strategy": { "Fixed": 128 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 3,
                     "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": [special(0, "[UNK]"), special(1, "[CLS]"), special(2, "[SEP]"), special(3, "[PAD]")],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [piece("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, piece("[SEP]")],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [1], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [2], "tokens": ["[SEP]"] },
            },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100,
                   "vocab": { "[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "mast": 4, "##s": 5, "hot": 6 } },
    })
}

/// A file in a folder of its own.
fn file(name: &str, content: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::io::Write::write_all(&mut File::create(dir.path().join(name)).unwrap(), content).unwrap();
    dir
}

fn text(max_tokens: usize, inputs: TextInputs) -> Result<Text, Error> {
    let dir = file("tokenizer.json", tokenizer().to_string().as_bytes());
    Text::read(dir.path(), &TextConfig { max_tokens, inputs, ..TextConfig::default() })
}

fn values(input: &NamedTensor) -> Vec<i64> {
    let (elements, _) = input.tensor.data().bytes().as_chunks::<8>();
    elements.iter().map(|element| i64::from_le_bytes(*element)).collect()
}

#[test]
fn words_pieces_and_what_is_too_long() {
    let text = text(6, TextInputs::default()).unwrap();
    let check = |sentence: &str, expected: &[u32]| {
        let tokens = text.tokenise(sentence).unwrap();
        assert_eq!(tokens.ids(), expected, "{sentence:?}");
    };
    check("Hot MASTS", &[1, 6, 4, 5, 2]);
    check("h\u{f3}t", &[1, 6, 2]);
    check("", &[1, 2]);
    check(" \u{0}\u{200b}\t", &[1, 2]);
    check("mast\u{1f5fc}", &[1, 0, 2]);
    check("hot hot hot hot hot", &[1, 6, 6, 6, 6, 2]);
    check("hot [SEP] hot", &[1, 6, 2, 6, 2]);
}

#[test]
fn tokens_of_the_client_are_completed() {
    let text = text(5, TextInputs::default()).unwrap();
    let check = |ids: &[u32], expected: Option<&[u32]>| {
        let got = text.complete(ids);
        assert_eq!(got.as_ref().ok().map(Tokens::ids), expected, "{ids:?}: {got:?}");
    };
    check(&[6, 4, 5], Some(&[1, 6, 4, 5, 2]));
    check(&[6; 1000], Some(&[1, 6, 6, 6, 2]));
    check(&[], Some(&[1, 2]));
    check(&[7], None);
    check(&[u32::MAX], None);
}

#[test]
fn shorter_rows_are_padded_and_masked() {
    let rows = [Tokens(vec![1, 6, 2]), Tokens(vec![1, 4, 5, 6, 2])];
    let rows: Vec<&Tokens> = rows.iter().collect();
    let allocate = |len: usize| Ok::<_, Error>(BufferMut::heap(len));
    let inputs = text(9, TextInputs::default()).unwrap().inputs(&rows, allocate).unwrap();
    let named: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(named, ["input_ids", "attention_mask", "token_type_ids"]);
    assert_eq!(inputs[0].tensor.shape(), [2, 5]);
    assert_eq!(values(&inputs[0]), [1, 6, 2, 3, 3, 1, 4, 5, 6, 2]);
    assert_eq!(values(&inputs[1]), [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(values(&inputs[2]), [0; 10]);

    let only_ids = TextInputs { ids: "x".to_owned(), mask: None, types: None };
    let text = text(9, only_ids).unwrap();
    assert_eq!(text.inputs(&rows, allocate).unwrap().len(), 1);
    assert!(matches!(text.inputs(&[], allocate), Err(Error::Text { .. })));
}

#[test]
fn a_folder_that_cannot_work_is_refused() {
    assert!(matches!(text(2, TextInputs::default()), Err(Error::Config { block: "text", .. })));
    assert!(matches!(text(1 << 20, TextInputs::default()), Err(Error::Config { block: "text", .. })));

    let check = |name: &str, content: &[u8]| {
        let dir = file("tokenizer.json", content);
        let error = Text::read(dir.path(), &TextConfig::default()).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }), "{name}: {error}");
        assert!(error.to_string().contains("tokenizer.json"), "{name}: {error}");
    };
    check("empty", b"");
    check("no object", b"[]");
    check("another kind of file", b"\x80\x02}q\x00.");
    check("cut off", &tokenizer().to_string().as_bytes()[..300]);
    check("deep", "[".repeat(100_000).as_bytes());
    let mut unknown = tokenizer();
    unknown["model"]["type"] = "Telepathy".into();
    check("an unknown model", unknown.to_string().as_bytes());
    let mut no_word = tokenizer();
    no_word["model"]["vocab"] = json!({ "hot": -1 });
    check("a vocabulary without numbers", no_word.to_string().as_bytes());
    let missing = tempfile::tempdir().unwrap();
    assert!(matches!(Text::read(missing.path(), &TextConfig::default()), Err(Error::Tokenizer { .. })));
}

proptest! {
    #[test]
    fn any_text_has_tokens_within_the_limit(sentence in any::<String>()) {
        let text = text(6, TextInputs::default()).unwrap();
        let tokens = text.tokenise(&sentence).unwrap();
        prop_assert!((2..=6).contains(&tokens.len()));
        prop_assert_eq!((tokens.ids()[0], tokens.ids()[tokens.len() - 1]), (1, 2));
    }
}
