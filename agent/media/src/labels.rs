use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A label file is a few hundred short lines.
const LIMIT_BYTES: u64 = 4 << 20;

/// Names of classes, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<String>);

impl Labels {
    /// The lines of a file in the model's folder; none when it cannot be read, for classes have numbers too.
    pub(crate) fn read(dir: &Path, file: Option<&PathBuf>) -> Self {
        let Some(path) = file.map(|file| dir.join(file)) else { return Self::default() };
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(LIMIT_BYTES).read_to_string(&mut text)) {
            Ok(_) => Self(text.lines().map(|line| line.trim().to_owned()).collect()),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read the labels of a model");
                Self::default()
            }
        }
    }

    pub(crate) fn name(&self, class: usize) -> String {
        let line = self.0.get(class).filter(|label| !label.is_empty());
        line.cloned().unwrap_or_else(|| format!("class {class}"))
    }
}
