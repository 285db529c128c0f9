use std::fmt::Write as _;

/// The error and its causes in one line, for the one place where it is logged or printed.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some libraries say their cause themselves.
        if !text.ends_with(&said) {
            // Writing into a String cannot fail.
            write!(text, ": {said}").ok();
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Said {
        text: &'static str,
        source: Option<Box<Said>>,
    }

    #[test]
    fn each_cause_is_said_once() {
        let last = Said { text: "no bytes", source: None };
        let chatty = Said { text: "cannot decode: no bytes", source: Some(Box::new(last)) };
        let first = Said { text: "cannot use the photo", source: Some(Box::new(chatty)) };
        assert_eq!(chain(&first), "cannot use the photo: cannot decode: no bytes");
    }
}
