use std::fs;
use std::io;
use std::path::Path;

use serve::ModelConfig;

use super::{Outcome, Subject};

/// A folder of the repository, read without loading anything.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) versions: Vec<u64>,
    pub(super) config: Result<ModelConfig, String>,
    /// What keeps it from being served as its owner means it.
    pub(super) problems: Vec<String>,
}

/// Every model has a version with a file and a model.toml that can be read.
pub(super) fn check(subject: &Subject) -> Outcome {
    let config = match subject.config() {
        Ok(config) => config,
        Err(outcome) => return outcome,
    };
    judge(&config.serve.model_repository)
}

fn judge(repository: &Path) -> Outcome {
    let shown = repository.display();
    let models = match find(repository) {
        Ok(models) => models,
        Err(error) => {
            return Outcome::failed(
                format!("cannot read {shown}: {error}"),
                "make the folder, or name another with serve.model_repository or --model-repository",
            );
        }
    };
    if models.is_empty() {
        return Outcome::warning(
            format!("{shown} holds no model"),
            "put models there as <model>/<version>/model.onnx, then `mast run` or a repository load",
        );
    }
    let named = |found: &Found| {
        let versions: Vec<String> = found.versions.iter().map(u64::to_string).collect();
        format!("{} ({})", found.name, versions.join(", "))
    };
    let list = models.iter().map(named).collect::<Vec<_>>().join(", ");
    let text = format!("{shown}: {} models: {list}", models.len());
    let broken: Vec<String> = models
        .iter()
        .flat_map(|found| found.problems.iter().map(|problem| format!("{}: {problem}", found.name)))
        .collect();
    if broken.is_empty() {
        Outcome::ok(text)
    } else {
        Outcome::failed(
            format!("{text}; {}", broken.join("; ")),
            "correct or remove these models; the others are served meanwhile",
        )
    }
}

/// The models of a repository, by name.
pub(super) fn find(repository: &Path) -> io::Result<Vec<Found>> {
    let mut models = Vec::new();
    for entry in fs::read_dir(repository)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') {
            models.push(look(name, &entry.path()));
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

fn look(name: String, dir: &Path) -> Found {
    let mut problems = Vec::new();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let mut versions: Vec<u64> = numbered.collect();
    versions.sort_unstable();
    match versions.last() {
        None => problems.push("no version: a folder named by a number with model.onnx in it".to_owned()),
        Some(newest) => {
            let file = dir.join(newest.to_string()).join("model.onnx");
            if !fs::metadata(&file).is_ok_and(|file| file.is_file() && file.len() > 0) {
                problems.push(format!("version {newest} has no model.onnx, or an empty one"));
            }
        }
    }
    let config = read_config(dir);
    match &config {
        Ok(config) => problems.extend(missing_labels(dir, config)),
        Err(error) => problems.push(error.clone()),
    }
    Found { name, versions, config, problems }
}

fn read_config(dir: &Path) -> Result<ModelConfig, String> {
    match fs::read_to_string(dir.join("model.toml")) {
        Ok(text) => ModelConfig::parse(&text).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ModelConfig::default()),
        Err(error) => Err(format!("model.toml cannot be read: {error}")),
    }
}

fn missing_labels(dir: &Path, config: &ModelConfig) -> Option<String> {
    let classify = config.classify.as_ref().and_then(|classify| classify.labels.as_ref());
    let detect = config.detect.as_ref().and_then(|detect| detect.labels.as_ref());
    let labels = classify.into_iter().chain(detect);
    let missing = labels.into_iter().find(|labels| !dir.join(labels).is_file())?;
    Some(format!("its label file {} is missing", missing.display()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::put;
    use super::*;

    #[test]
    fn every_model_is_looked_at() {
        let check = |files: &[(&str, &str)], word: &str, part: &str| {
            let dir = tempfile::tempdir().unwrap();
            for (path, content) in files {
                put(&dir.path().join(path), content.as_bytes());
            }
            let outcome = judge(dir.path());
            assert_eq!(outcome.word(), word, "{files:?}: {outcome:?}");
            assert!(outcome.text().contains(part), "{outcome:?} has no '{part}'");
        };
        let good = ("a/1/model.onnx", "x");
        check(&[], "warning", "no model");
        check(&[good, ("a/2/model.onnx", "x"), ("notes.txt", "")], "ok", "1 models: a (1, 2)");
        check(&[good, ("b/model.toml", "")], "failed", "b: no version");
        check(&[("a/1/model.onnx", "")], "failed", "version 1 has no model.onnx");
        check(&[good, ("a/model.toml", "treads = 1")], "failed", "treads");
        let classify = "[classify]\noutput = \"y\"\nlabels = \"labels.txt\"";
        check(&[good, ("a/model.toml", classify)], "failed", "labels.txt is missing");
        check(&[good, ("a/model.toml", classify), ("a/labels.txt", "cat")], "ok", "a (1)");
        assert_eq!(judge(Path::new("/nonexistent")).word(), "failed");
    }
}
