//! Schedules as people type them, and what they expect of special days.

use jiff::Timestamp;

use super::*;

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

fn ms(text: &str) -> u64 {
    u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
}

fn shown(at_ms: u64) -> String {
    Timestamp::from_millisecond(i64::try_from(at_ms).unwrap()).unwrap().to_string()
}

/// The times after an instant, as texts.
fn times(text: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text);
    let first = schedule.next(ms(after));
    std::iter::successors(first, |at| schedule.next(*at)).take(count).map(shown).collect()
}

#[test]
fn what_is_typed_prints_back() {
    for text in [
        "every minute",
        "every 15 minutes",
        "every hour",
        "every 4 hours from 22:30",
        "daily at 22:30 Europe/Berlin",
        "daily at 06:00,22:30",
        "weekly on mon,thu at 03:00",
        "weekly on mon-wed,sat,sun at 03:00",
        "monthly on last fri at 01:00",
        "monthly on first mon,15,last day at 01:00 America/New_York",
        "cron 0 3 * * 1-5",
        "cron */10 8-18/2 1,15 jan-mar sun Asia/Kolkata",
        "every 15 minutes during mon-fri 20:00-06:00 and sat,sun except 12:00-13:00",
        "daily at 22:30 missed skip",
        "daily at 22:30 Europe/Berlin except sun missed within 4 hours",
        "daily at 22:30 missed within 1 hour",
    ] {
        assert_eq!(schedule(text).to_string(), text);
    }
    for (typed, printed) in [
        ("  Every 60 Minutes  from 0:00 ", "every hour"),
        ("every 120 minutes", "every 2 hours"),
        ("DAILY AT 22:30,6:00,22:30 europe/berlin", "daily at 06:00,22:30 Europe/Berlin"),
        ("weekly on Friday , sat-mon at 3:00 utc", "weekly on mon,fri-sun at 03:00"),
        ("monthly on first day at 3:00", "monthly on 1 at 03:00"),
        ("cron 0 3 * * MON missed now", "cron 0 3 * * mon"),
        ("daily at 1:00 missed skip except 2:00-3:00 UTC", "daily at 01:00 except 02:00-03:00 missed skip"),
    ] {
        assert_eq!(schedule(typed).to_string(), printed);
    }
    let berlin: Zone = "Europe/Berlin".parse().unwrap();
    let by_default = Schedule::parse_in("daily at 22:30", &berlin).unwrap();
    assert_eq!(by_default.to_string(), "daily at 22:30 Europe/Berlin");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, at, why) in [
        ("", 1, "expected \"every\", \"daily\", \"weekly\", \"monthly\" or \"cron\", but the text ends here"),
        ("hourly", 1, "expected \"every\", \"daily\", \"weekly\", \"monthly\" or \"cron\", found \"hourly\""),
        ("every 15 minuts", 10, "expected a number and \"minutes\" or \"hours\", found \"minuts\""),
        ("every 0 minutes", 7, "the interval must be a number from 1 to 1440, found \"0\""),
        ("every 25 hours", 7, "the interval must be a number from 1 to 24, found \"25\""),
        ("every 5x minutes", 7, "the interval must be a number from 1 to 1440, found \"5x\""),
        ("daily 22:30", 7, "expected \"at\" and a time of day, found \"22:30\""),
        ("daily at 24:00", 10, "\"24:00\" is no time of day; write it as 22:30"),
        ("daily at 22:3", 10, "\"22:3\" is no time of day; write it as 22:30"),
        ("daily at 22:30,", 16, "expected a time of day such as 22:30, but the text ends here"),
        (
            "daily at 22:30 Europe/Nowhere",
            16,
            "no time zone is called \"Europe/Nowhere\"; write its IANA name, such as Europe/Berlin, or UTC",
        ),
        (
            "daily at 22:30 UTC Europe/Berlin",
            20,
            "expected \"during\", \"except\", \"missed\" or the end, found \"Europe/Berlin\"",
        ),
        ("weekly on funday at 03:00", 11, "expected a weekday such as mon, found \"funday\""),
        ("monthly on 32 at 03:00", 12, "the day of the month must be a number from 1 to 31, found \"32\""),
        ("monthly on last week at 03:00", 17, "expected a weekday such as mon, found \"week\""),
        (
            "cron 0 3 * *",
            13,
            "expected five fields: minute, hour, day of the month, month and weekday, but the text ends here",
        ),
        ("cron 0 3 * * 8", 14, "the weekday must be a number from 0 to 7, found \"8\""),
        ("cron 0 3-1 * * *", 8, "the hour has a range that ends before it begins, \"3-1\""),
        ("cron 0/0 3 * * *", 6, "the minute must be a number from 1 to 59, found \"0\""),
        (
            "every hour during lunch",
            19,
            "expected a window such as 20:00-06:00 or mon-fri 20:00-06:00, found \"lunch\"",
        ),
        (
            "every hour during 08:00-08:00",
            19,
            "the window \"08:00-08:00\" begins and ends at the same time; write 00:00-24:00 for a whole day",
        ),
        ("every hour missed within 4", 27, "expected \"hours\", but the text ends here"),
        ("every hour missed skip missed now", 24, "\"missed\" was given already"),
        (
            "cron 0 3 30 2 *",
            1,
            "no run would ever start: no such day comes, or the windows leave no time for it",
        ),
        (
            "täglich at 3:00",
            1,
            "expected \"every\", \"daily\", \"weekly\", \"monthly\" or \"cron\", found \"täglich\"",
        ),
    ] {
        let error = text.parse::<Schedule>().unwrap_err();
        assert_eq!((error.at, error.problem.to_string().as_str()), (at, why), "{text}");
    }
    let error = "daily at noon".parse::<Schedule>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the schedule \"daily at noon\" is wrong at character 10: \"noon\" is no time of day; write it as 22:30"
    );
}

#[test]
fn clocks_that_are_set_forward_leave_no_run_out() {
    // On 2026-03-29 Berlin has no time from 02:00 to 03:00.
    assert_eq!(
        times("daily at 02:15,02:45 Europe/Berlin", "2026-03-28T12:00:00Z", 3),
        ["2026-03-29T01:00:00Z", "2026-03-30T00:15:00Z", "2026-03-30T00:45:00Z"]
    );
    assert_eq!(
        times("every 30 minutes Europe/Berlin", "2026-03-29T00:10:00Z", 3),
        ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]
    );
    assert_eq!(
        times("cron 30 * * * * Europe/Berlin", "2026-03-29T00:00:00Z", 2),
        ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]
    );
    assert_eq!(
        times("cron 30 2 * * * Europe/Berlin", "2026-03-28T12:00:00Z", 2),
        ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn clocks_that_are_set_back_bring_no_run_twice() {
    // On 2026-10-25 Berlin has the time from 02:00 to 03:00 twice.
    assert_eq!(
        times("daily at 02:30 Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    assert_eq!(
        times("every 30 minutes Europe/Berlin", "2026-10-25T00:00:00Z", 4),
        ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"]
    );
    assert_eq!(
        times("cron 30 * * * * Europe/Berlin", "2026-10-25T00:00:00Z", 3),
        ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
    );
}

#[test]
fn the_steps_of_every_begin_anew_each_day() {
    assert_eq!(
        times("every 7 hours from 22:30", "2026-11-27T20:00:00Z", 5),
        [
            "2026-11-27T22:30:00Z",
            "2026-11-28T05:30:00Z",
            "2026-11-28T12:30:00Z",
            "2026-11-28T19:30:00Z",
            "2026-11-28T22:30:00Z"
        ]
    );
}

#[test]
fn days_of_months_are_found() {
    assert_eq!(
        times("monthly on last day at 12:00", "2028-01-01T00:00:00Z", 3),
        ["2028-01-31T12:00:00Z", "2028-02-29T12:00:00Z", "2028-03-31T12:00:00Z"]
    );
    assert_eq!(
        times("monthly on 31 at 12:00", "2026-01-31T12:00:00Z", 2),
        ["2026-03-31T12:00:00Z", "2026-05-31T12:00:00Z"]
    );
    assert_eq!(
        times("monthly on first mon,last fri at 01:00", "2026-11-01T00:00:00Z", 3),
        ["2026-11-02T01:00:00Z", "2026-11-27T01:00:00Z", "2026-12-07T01:00:00Z"]
    );
    // 2100 is no leap year.
    assert_eq!(
        times("cron 0 0 29 2 *", "2096-02-29T00:00:00Z", 2),
        ["2104-02-29T00:00:00Z", "2108-02-29T00:00:00Z"]
    );
    // The longest search that finds anything: a leap day on one weekday, over 2100.
    assert_eq!(
        times("cron 0 0 29 2 * during sat", "2070-01-01T00:00:00Z", 2),
        ["2076-02-29T00:00:00Z", "2116-02-29T00:00:00Z"]
    );
    // The day or the weekday, as cron has it; both, where one field begins with a star.
    assert_eq!(
        times("cron 0 0 13 * fri", "2026-11-01T00:00:00Z", 3),
        ["2026-11-06T00:00:00Z", "2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"]
    );
    assert_eq!(times("cron 0 0 */2 * 5", "2026-11-01T00:00:00Z", 1), ["2026-11-13T00:00:00Z"]);
    assert_eq!(times("cron 0 0 * * 7", "2026-11-02T00:00:00Z", 1), ["2026-11-08T00:00:00Z"]);
}

#[test]
fn a_day_that_a_zone_left_out_has_its_run_at_the_jump() {
    // Samoa had no 2011-12-30.
    assert_eq!(
        times("daily at 12:00 Pacific/Apia", "2011-12-29T00:00:00Z", 3),
        ["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]
    );
}

#[test]
fn windows_say_when_a_run_may_start() {
    assert_eq!(
        times("every 6 hours during fri 20:00-06:00", "2026-11-25T00:00:00Z", 3),
        ["2026-11-28T00:00:00Z", "2026-12-05T00:00:00Z", "2026-12-12T00:00:00Z"]
    );
    let nights = schedule("every hour Europe/Berlin during 20:00-06:00 except sun");
    assert!(nights.may_start(ms("2026-11-27T19:00:00Z")));
    assert!(!nights.may_start(ms("2026-11-27T18:59:59Z")));
    assert!(!nights.may_start(ms("2026-11-28T05:00:00Z")));
    assert!(nights.may_run(ms("2026-11-28T05:00:00Z")), "it may go on");
    assert!(!nights.may_run(ms("2026-11-29T05:00:00Z")), "not on Sunday");
}

#[test]
fn a_search_ends_where_nothing_comes() {
    let bad = "cron * 0-12 * * * during mon 13:00-14:00";
    assert_eq!(bad.parse::<Schedule>().unwrap_err().problem, ScheduleProblem::Never);
    let daily = schedule("daily at 22:30 Europe/Berlin");
    assert_eq!(daily.next(u64::MAX), None);
    assert_eq!(daily.latest(0), None);
    assert_eq!(daily.next(ms("9999-12-30T21:59:59Z")), None);
    assert_eq!(schedule("every minute").latest(0), Some(0));
}
