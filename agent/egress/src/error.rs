/// Why something is not a word of the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `[a-z0-9._-]{1,64}`. The offending text is not repeated: it could be anything.
    #[error("not an identifier: {length} bytes, wanted 1 to 64 of a-z, 0-9, '.', '_' and '-'")]
    Ident {
        /// Length of what was given, in bytes.
        length: usize,
    },
    /// Not of the form `DE` (ISO 3166-1 alpha-2) or `DE-BY` (ISO 3166-2).
    #[error("not a jurisdiction: wanted the form DE (ISO 3166-1) or DE-BY (ISO 3166-2)")]
    Jurisdiction,
    /// Fixed-size bytes (a key, a signature) of another length or alphabet.
    #[error("not {bytes} bytes in {encoding}")]
    Fixed {
        /// The length wanted, in bytes.
        bytes: usize,
        /// `base64`.
        encoding: &'static str,
    },
    /// The encoded form is longer than its kind may be.
    #[error("{what} of {length} bytes is over its limit of {limit}")]
    TooLong {
        /// The kind, a fixed word.
        what: &'static str,
        /// Encoded length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The bytes are not JSON of this shape.
    #[error("cannot read {what}")]
    Decode {
        /// The kind, a fixed word.
        what: &'static str,
        /// Where and why. For the local log only: it can quote the input.
        #[source]
        source: serde_json::Error,
    },
    /// The value cannot be written as JSON.
    #[error("cannot write {what}")]
    Encode {
        /// The kind, a fixed word.
        what: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The numbers contradict each other.
    #[error("{what} contradicts itself: {rule}")]
    Inconsistent {
        /// The kind, a fixed word.
        what: &'static str,
        /// The rule that was broken.
        rule: &'static str,
    },
}
