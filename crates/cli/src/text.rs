//! Values as people write and read them: sizes, times, aligned tables.
//!
//! Pure. Whatever comes from a machine passes through [`clean`] before it reaches a terminal.

use std::fmt::Write as _;

pub use nestling_model::size_shown as size;
use unicode_width::UnicodeWidthStr;

/// Replaces what could move a terminal's cursor or turn text around. Line ends stay.
pub fn clean(text: &str) -> String {
    let unfit = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if unfit(c) { '\u{fffd}' } else { c }).collect()
}

/// `1536MB`, `2 GB`, `1.5gb`, `4096`: bytes, as PowerShell counts them (1 KB is 1024 bytes).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("\"{unit}\" is no unit; use KB, MB, GB or TB")),
    };
    let bad = || "a size is a number with KB, MB, GB or TB behind it, such as 512MB".to_owned();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 =
        if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).unwrap_or(u32::MAX)).ok_or_else(bad)?;
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let bytes = (u128::from(whole) << shift) + ((u128::from(fraction) << shift) / u128::from(scale));
    u64::try_from(bytes).map_err(|_| format!("{text} is more than any computer has"))
}

/// `2 processors`
pub fn count(number: u32, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `3d 02:00:10`, `00:00:10`
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days == 0 { clock } else { format!("{days}d {clock}") }
}

/// `2026-11-24 17:22:29Z`, from milliseconds since 1970.
pub fn time(ms: u64) -> String {
    let (year, month, day) = date(ms / 86_400_000);
    let seconds = ms / 1000 % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Year, month and day of a day since 1970, in the Gregorian calendar (years that begin in March make the
/// leap day the last of its year).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Rows whose cells stand under each other.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<usize>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|h| (*h).to_owned()).collect()], right: Vec::new() }
    }

    /// Rows without a header above them.
    pub fn bare() -> Self {
        Self::default()
    }

    /// Columns whose cells stand at their right end: numbers.
    #[must_use]
    pub fn right(mut self, columns: &[usize]) -> Self {
        self.right = columns.to_vec();
        self
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|c| clean(&c).replace('\n', " ")).collect());
    }

    /// The rows, each with its line end.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|i| self.rows.iter().filter_map(|r| r.get(i)).map(|c| c.width()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[i] - cell.width());
                let gap = if i == 0 || widths[i] == 0 { "" } else { "  " };
                let (before, after) = if self.right.contains(&i) { (&*pad, "") } else { ("", &*pad) };
                let _ = write!(line, "{gap}{before}{cell}{after}");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Names and values under each other; what is empty is left out.
pub fn fields(fields: &[(&str, String)]) -> String {
    let mut table = Table::bare();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        table.row([format!("{name}:"), value.clone()]);
    }
    table.text()
}

pub const fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_powershell_reads_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1KB", 1024),
            ("1536MB", 1536 << 20),
            ("1.5gb", 1536 << 20),
            (".5 GiB", 512 << 20),
            ("2T", 2 << 40),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "GB", "-1GB", "1XB", "1.2.3MB", "99999999999TB", "1e3", ".", "0.00000000000000000000001"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_in_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_795_541_123_000), "2026-11-24 17:25:23Z");
        assert_eq!(duration(266_410_000), "3d 02:00:10");
    }

    #[test]
    fn cells_stand_under_each_other_in_every_script() {
        let mut table = Table::new(&["NAME", "MEMORY", "STATE"]).right(&[1]);
        table.row(["仮想".into(), "2 GB".into(), "Off".into()]);
        table.row(["a\u{1b}[2J\nb".into(), "512 MB".into(), String::new()]);
        assert_eq!(table.text(), "NAME     MEMORY  STATE\n仮想       2 GB  Off\na\u{fffd}[2J b  512 MB\n");
    }
}
