use serde::{Deserialize, Deserializer};

/// Which versions of a model are served (model_config.proto, `ModelVersionPolicy`). In `model.toml`: a number,
/// `"all"`, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The newest n.
    Latest(usize),
    All,
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    fn default() -> Self {
        Self::Latest(1)
    }
}

impl VersionPolicy {
    /// The versions to serve, ascending. `on_disk` ascends; what is named but not there is kept, to fail by name.
    pub(crate) fn select(&self, on_disk: &[u64]) -> Vec<u64> {
        match self {
            Self::Latest(count) => {
                on_disk.iter().skip(on_disk.len().saturating_sub(*count)).copied().collect()
            }
            Self::All => on_disk.to_vec(),
            Self::Specific(versions) => {
                let mut versions = versions.clone();
                versions.sort_unstable();
                versions.dedup();
                versions
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Latest(0) => Err("the version policy serves the latest 0 versions".to_owned()),
            Self::Specific(versions) if versions.is_empty() => {
                Err("the version policy names none".to_owned())
            }
            Self::Specific(versions) if versions.contains(&0) => Err("there is no version 0".to_owned()),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for VersionPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number of versions, \"all\", or a list of versions")]
        enum Written {
            Latest(usize),
            All(All),
            Specific(Vec<u64>),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum All {
            All,
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Latest(count) => Self::Latest(count),
            Written::All(All::All) => Self::All,
            Written::Specific(versions) => Self::Specific(versions),
        })
    }
}
