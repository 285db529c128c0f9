//! Photos and sentences in, labels, boxes and vectors out: against software of others, and what must be refused.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::{Agent, Setup, workspace};
use media::{Blocks, Plan};
use serve::TextConfig;

const SENTENCES: &str = "minilm-l6-v2-int8";

fn agent() -> Result<Agent> {
    Setup::new()?.repository_at(workspace::models()).start()
}

/// Runs a program of tests/cases, which says how much it checked.
fn check(program: &str, args: &[&str]) -> Result<()> {
    let program = workspace::root().join("tests/cases").join(program);
    let output = Command::new(workspace::python()?).arg("-B").arg(&program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}{errors}", program.display());
    let checked = said.trim().strip_prefix("checked ").and_then(|count| count.parse::<u32>().ok());
    ensure!(checked.is_some_and(|count| count >= 20), "{}: {said}", program.display());
    Ok(())
}

#[test]
fn openai_s_own_client() -> Result<()> {
    let agent = agent()?;
    let golden = workspace::root().join("models/golden").join(SENTENCES);
    check("openai_check.py", &[&format!("http://{}/v1", agent.http), &golden.to_string_lossy()])
}

#[test]
fn photos_mean_what_pillow_and_onnx_runtime_say() -> Result<()> {
    let agent = agent()?;
    let (models, photos) = (workspace::models(), workspace::photos());
    check("media_check.py", &[&agent.http.to_string(), &models.to_string_lossy(), &photos.to_string_lossy()])
}

#[test]
fn tokens_are_those_of_hugging_face() -> Result<()> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\u{0}",
        "\t\n\r",
        "\u{fffd}\u{200b}\u{ad}",
        "Hello, World!",
        "don't can't l'été",
        "naïve café Ångström ñandú ﬁne ½ №5 ①",
        "e\u{301}tude n\u{303}o",
        "日本語のテスト",
        "中文，标点。",
        "한국어 시험",
        "Привет мир",
        "שלום עולם",
        "مرحبا بالعالم",
        "हिन्दी परीक्षण",
        "ไทยไม่มีเว้นวรรค",
        "📡 🗼 👩‍🔬 🇩🇪 ❤️",
        "[CLS] [SEP] [MASK] [PAD] [UNK] [CLS",
        "##hot ## #",
        "https://example.com/a?b=c&d=%20#e",
        "192.168.0.1:8001 -40.5°C 3.5e-9",
        "a\u{a0}b\u{3000}c\u{2028}d",
        "UPPER lower MiXeD İstanbul ẞ ß",
        "supercalifragilisticexpialidocious",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \u{10ffff} \u{1f9ff}",
        "fn main() { println!(\"{:?}\", x); }",
    ]
    .map(str::to_owned)
    .into();
    texts.extend([99, 100, 101, 5000].map(|count| "x".repeat(count)));
    texts.extend([253, 254, 255, 2000].map(|count| "mast ".repeat(count)));
    texts.push("\u{e9}".repeat(3000));
    texts.push("字".repeat(3000));

    let config = TextConfig::default();
    let dir = workspace::models().join(SENTENCES);
    let plan = Plan::read(&dir, Blocks { text: Some(&config), ..Blocks::default() })?;
    let mut python = Command::new(workspace::python()?)
        .arg("-B")
        .arg(workspace::root().join("tests/cases/tokens.py"))
        .arg(dir.join(&config.tokenizer))
        .arg(config.max_tokens.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    python.stdin.take().context("no stdin")?.write_all(&serde_json::to_vec(&texts)?)?;
    let expected: Vec<Vec<u32>> = serde_json::from_slice(&python.wait_with_output()?.stdout)?;
    ensure!(expected.len() == texts.len());
    for (tokens, (text, expected)) in plan.tokenise(&texts)?.iter().zip(texts.iter().zip(expected)) {
        let shown: String = text.chars().take(40).collect();
        ensure!(tokens.ids() == expected, "{shown:?}: {:?} instead of {expected:?}", tokens.ids());
    }
    Ok(())
}
