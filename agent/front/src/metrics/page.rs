use std::fmt::{Display, Write};

/// A page of metrics that is being written.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
}

impl Default for Page {
    fn default() -> Self {
        Self { text: String::with_capacity(8 << 10) }
    }
}

impl Page {
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, String)], value: impl Display) {
        self.text.push_str(name);
        for (index, (key, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(key);
            self.text.push_str("=\"");
            self.escaped(text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    /// One series of a histogram: its buckets up to each of `bounds` and beyond the last, its sum and its count. `counts` has
    /// one more than `bounds`, each without those below.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, String)],
        bounds: &[u64],
        counts: impl IntoIterator<Item = u64>,
        sum: u64,
    ) {
        let mut below = 0;
        let bucket = format!("{name}_bucket");
        let bounds = bounds.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            below += count;
            self.sample(&bucket, &[labels, &[("le", bound)]].concat(), below);
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, below);
    }

    /// A label value: backslash, quote and line feed are escaped.
    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }

    /// Writing to a String cannot fail.
    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let check = |value: &str, expected: &str| {
            let mut page = Page { text: String::new() };
            page.sample("m", &[("a", value.to_owned()), ("b", String::new())], 3);
            assert_eq!(page.text, format!("m{{a=\"{expected}\",b=\"\"}} 3\n"));
        };
        check("plain", "plain");
        check("a\"b\\c\nd", "a\\\"b\\\\c\\nd");
        check("} 1\n", "} 1\\n");
    }
}
