//! What FAT and exFAT have in common: dates, and names without regard to case.

use crate::fs::Timestamp;

/// A date and a time of day as DOS keeps them, which have no zone: taken as UTC. None when no such day exists.
pub(crate) fn timestamp(date: u16, time: u16, hundredths: u8) -> Option<Timestamp> {
    let (year, month, day) =
        (1980 + i64::from(date >> 9), i64::from(date >> 5 & 0xf), i64::from(date & 0x1f));
    let (hour, minute, second) = (time >> 11, time >> 5 & 0x3f, (time & 0x1f) * 2);
    let valid =
        (1..=12).contains(&month) && day > 0 && hour < 24 && minute < 60 && second < 60 && hundredths < 200;
    let of_day =
        i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second) + i64::from(hundredths / 100);
    valid.then(|| Timestamp {
        seconds: days(year, month, day) * 86_400 + of_day,
        nanoseconds: u32::from(hundredths % 100) * 10_000_000,
    })
}

/// From 1970 on, for years after that.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the day that may be missing is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = year * 365 + year / 4 - year / 100 + year / 400;
    before + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Whether two names are one on a volume that does not tell cases apart.
pub(crate) fn same_name(a: &[u8], b: &[u8]) -> bool {
    if a.eq_ignore_ascii_case(b) {
        return true;
    }
    match (std::str::from_utf8(a), std::str::from_utf8(b)) {
        (Ok(a), Ok(b)) => a.chars().map(upper).eq(b.chars().map(upper)),
        _ => false,
    }
}

/// One character for one, as the tables on disk have it.
fn upper(c: char) -> char {
    let mut all = c.to_uppercase();
    all.next().filter(|_| all.len() == 0).unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let day = |year: u16, month: u16, day: u16| (year - 1980) << 9 | month << 5 | day;
        let at =
            |date, time, hundredths| timestamp(date, time, hundredths).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(at(day(1980, 1, 1), 0, 0), Some((315_532_800, 0)));
        assert_eq!(at(day(2000, 2, 29), 0, 0), Some((951_782_400, 0)));
        assert_eq!(at(day(2024, 3, 1), 23 << 11 | 59 << 5 | 29, 150), Some((1_709_337_599, 500_000_000)));
        assert_eq!(at(day(2107, 12, 31), 0, 0), Some((4_354_732_800, 0)));
        assert_eq!(at(0, 0, 0), None);
        assert_eq!(at(day(1990, 13, 1), 0, 0), None);
    }

    #[test]
    fn names_are_compared_without_case() {
        assert!(same_name(b"ReadMe.TXT", b"readme.txt"));
        assert!(same_name("GRÖSSE".as_bytes(), "größe".as_bytes()) == same_name("ß".as_bytes(), b"SS"));
        assert!(same_name("Ünder".as_bytes(), "ÜNDER".as_bytes()));
        assert!(!same_name(b"\xed\xa0\x80", b"\xed\xa0\x81"));
    }
}
