//! Aligned columns for a person at a terminal.

/// Rows with two spaces between columns, nothing after the last.
pub(crate) fn text(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A row of the table.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// 850 µs, 12.3 ms, 1.25 s.
pub(crate) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// 512 B, 1.5 KiB, 64.0 MiB.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shift = 0;
    while unit + 1 < UNITS.len() && count >> shift >= 1024 {
        unit += 1;
        shift += 10;
    }
    if unit == 0 {
        return format!("{count} B");
    }
    let tenths = (count >> (shift - 10)) * 10 / 1024;
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// 45 s, 12 min, 3 h 20 min, 5 d 2 h.
pub(crate) fn seconds(count: u64) -> String {
    match count {
        0..120 => format!("{count} s"),
        120..7_200 => format!("{} min", count / 60),
        7_200..172_800 => format!("{} h {} min", count / 3_600, count % 3_600 / 60),
        _ => format!("{} d {} h", count / 86_400, count % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [row(["a", "bcd", "e"]), row(["éé", "", "f"]), row(["g"])];
        assert_eq!(text(&rows), "a   bcd  e\néé       f\ng\n");
    }

    #[test]
    fn quantities() {
        let check = |got: String, expected: &str| assert_eq!(got, expected);
        check(micros(850), "850 µs");
        check(micros(12_345), "12.3 ms");
        check(micros(1_254_000), "1.25 s");
        check(bytes(512), "512 B");
        check(bytes(1536), "1.5 KiB");
        check(bytes(64 << 20), "64.0 MiB");
        check(bytes(u64::MAX), "16777215.9 TiB");
        check(seconds(45), "45 s");
        check(seconds(12 * 60), "12 min");
        check(seconds(3 * 3600 + 1200), "3 h 20 min");
        check(seconds(5 * 86_400 + 7200), "5 d 2 h");
    }
}
