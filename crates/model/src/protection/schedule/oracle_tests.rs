//! Schedules against a slow oracle that looks at what the wall clock shows at each minute.

use jiff::{
    Timestamp,
    civil::{Date, Weekday},
    tz::{TimeZone, TimeZoneDatabase},
};
use proptest::prelude::*;

use super::*;

fn ms(text: &str) -> u64 {
    u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
}

fn shown(at_ms: u64) -> String {
    Timestamp::from_millisecond(i64::try_from(at_ms).unwrap()).unwrap().to_string()
}

#[derive(Debug, Clone)]
enum What {
    Every { minutes: i64, from: i64 },
    Clock { days: DaysOf, times: Vec<i64>, elapsed: bool },
}

#[derive(Debug, Clone)]
enum DaysOf {
    All,
    Week(Vec<i8>),
    Month(Vec<i8>),
    Nth(i8, i8),
    Cron { month_days: Option<Vec<i8>>, weekdays: Option<Vec<i8>> },
}

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "America/Havana",
];

fn clock_text(minutes: i64) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

fn list(items: &[String]) -> String {
    items.join(",")
}

/// Times near those at which clocks are set, and others.
fn minute() -> impl Strategy<Value = i64> {
    prop_oneof![0_i64..1440, 0_i64..240, Just(0), Just(1439)]
}

fn times_of_day() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(minute(), 1..4)
}

fn some_days(max: i8) -> impl Strategy<Value = Vec<i8>> {
    prop::collection::btree_set(1..=max, 1..4).prop_map(|days| days.into_iter().collect())
}

fn recurrences() -> impl Strategy<Value = (String, What)> {
    let clock = |days: DaysOf, times: &[i64]| What::Clock { days, times: times.to_vec(), elapsed: false };
    let at = |times: &[i64]| list(&times.iter().map(|t| clock_text(*t)).collect::<Vec<_>>());
    let names = |days: &[i8]| -> Vec<String> {
        days.iter().map(|d| WEEKDAYS[usize::from(d.unsigned_abs()) - 1].to_owned()).collect()
    };
    let numbers = |days: &[i8]| list(&days.iter().map(ToString::to_string).collect::<Vec<_>>());
    let every =
        (prop_oneof![1_i64..=1440, Just(15), Just(60), Just(240)], minute()).prop_map(|(minutes, from)| {
            (format!("every {minutes} minutes from {}", clock_text(from)), What::Every { minutes, from })
        });
    let daily = times_of_day()
        .prop_map(move |times| (format!("daily at {}", at(&times)), clock(DaysOf::All, &times)));
    let weekly = (some_days(7), times_of_day()).prop_map(move |(days, times)| {
        let text = format!("weekly on {} at {}", list(&names(&days)), at(&times));
        (text, clock(DaysOf::Week(days), &times))
    });
    let monthly = (some_days(31), times_of_day()).prop_map(move |(days, times)| {
        (format!("monthly on {} at {}", numbers(&days), at(&times)), clock(DaysOf::Month(days), &times))
    });
    let nth = (0_usize..5, 1_i8..=7, times_of_day()).prop_map(move |(nth, day, times)| {
        let word = ["first", "second", "third", "fourth", "last"][nth];
        let number = if nth == 4 { -1 } else { i8::try_from(nth).unwrap() + 1 };
        let text = format!("monthly on {word} {} at {}", names(&[day])[0], at(&times));
        (text, clock(DaysOf::Nth(number, day), &times))
    });
    let hours = prop::option::of(prop::collection::btree_set(0_i64..24, 1..4));
    let cron = (
        prop::collection::btree_set(0_i64..60, 1..4),
        hours,
        prop::option::of(some_days(31)),
        prop::option::of(some_days(7)),
    )
        .prop_map(move |(minutes, hours, month_days, weekdays)| {
            let text = |set: Vec<i64>| list(&set.iter().map(ToString::to_string).collect::<Vec<_>>());
            let star = || "*".to_owned();
            let line = format!(
                "cron {} {} {} * {}",
                text(minutes.iter().copied().collect()),
                hours.as_ref().map_or_else(star, |hours| text(hours.iter().copied().collect())),
                month_days.as_ref().map_or_else(star, |days| numbers(days)),
                weekdays.as_ref().map_or_else(star, |days| list(&names(days))),
            );
            let elapsed = hours.is_none();
            let hours: Vec<i64> = hours.map_or_else(|| (0..24).collect(), |set| set.into_iter().collect());
            let times = hours.iter().flat_map(|h| minutes.iter().map(move |m| h * 60 + m)).collect();
            (line, What::Clock { days: DaysOf::Cron { month_days, weekdays }, times, elapsed })
        });
    prop_oneof![every, daily, weekly, monthly, nth, cron]
}

/// A window: its weekday or all, its minutes, the second before the first if it goes over midnight.
type Part = (Option<i8>, i64, i64);

fn windows() -> impl Strategy<Value = (String, Vec<Part>)> {
    let window = (prop::option::of(1_i8..=7), 0_i64..1440, 1_i64..=1440);
    prop::collection::vec(window.prop_filter("empty", |(_, from, to)| from != to), 0..3).prop_map(|parts| {
        let texts: Vec<String> = parts
            .iter()
            .map(|(day, from, to)| {
                let day = day
                    .map_or(String::new(), |d| format!("{} ", WEEKDAYS[usize::from(d.unsigned_abs()) - 1]));
                format!("{day}{}-{}", clock_text(*from), clock_text(*to))
            })
            .collect();
        (texts.join(" and "), parts)
    })
}

fn number_of(weekday: Weekday) -> i8 {
    weekday.to_monday_one_offset()
}

fn in_window(part: &Part, weekday: i8, minute: i64) -> bool {
    let (day, from, to) = *part;
    let is_day = |weekday: i8| day.is_none_or(|day| day == weekday);
    let yesterday = if weekday == 1 { 7 } else { weekday - 1 };
    if from < to {
        is_day(weekday) && (from..to).contains(&minute)
    } else {
        is_day(weekday) && minute >= from || is_day(yesterday) && minute < to
    }
}

fn is_day(days: &DaysOf, date: Date) -> bool {
    let weekday = number_of(date.weekday());
    match days {
        DaysOf::All => true,
        DaysOf::Week(days) => days.contains(&weekday),
        DaysOf::Month(days) => days.contains(&date.day()),
        DaysOf::Nth(nth, day) => {
            let day = Weekday::from_monday_one_offset(*day).unwrap();
            date.nth_weekday_of_month(*nth, day).is_ok_and(|nth| nth == date)
        }
        DaysOf::Cron { month_days, weekdays } => match (month_days, weekdays) {
            (None, None) => true,
            (Some(days), None) => days.contains(&date.day()),
            (None, Some(days)) => days.contains(&weekday),
            (Some(month_days), Some(days)) => month_days.contains(&date.day()) || days.contains(&weekday),
        },
    }
}

struct Oracle<'a> {
    what: &'a What,
    during: &'a [Part],
    except: &'a [Part],
    zone: TimeZone,
}

impl Oracle<'_> {
    /// What the wall clock shows: the day, and the minutes since its midnight.
    fn clock(&self, minute: i64) -> (Date, i64) {
        let local = self.zone.to_datetime(Timestamp::from_second(minute * 60).unwrap());
        (local.date(), i64::from(local.hour()) * 60 + i64::from(local.minute()))
    }

    /// Minutes of the wall clock as one number, to find jumps by.
    fn line(&self, minute: i64) -> i64 {
        let (date, in_day) = self.clock(minute);
        let days = date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24;
        days * 1440 + in_day
    }

    fn shows(&self, line: i64, days: &DaysOf, times: &[i64]) -> bool {
        let date =
            Date::constant(1970, 1, 1).checked_add(jiff::Span::new().days(line.div_euclid(1440))).unwrap();
        times.contains(&line.rem_euclid(1440)) && is_day(days, date)
    }

    /// Walks from long before to the first time after an instant, or to a limit.
    fn next(&self, after: i64, limit: i64) -> Option<i64> {
        // Long enough to have seen the beginning of a day's steps and every time that may come twice.
        let begin = after - 3 * 1440;
        let mut highest = self.line(begin - 1);
        let mut step_from: Option<i64> = None;
        for minute in begin..=limit {
            let line = self.line(minute);
            // Lines that are shown now for the first time: one, none, or all that a jump leaves out.
            let new = highest + 1..=line;
            let is_time = match self.what {
                What::Every { minutes, from } => {
                    if new.clone().any(|line| line.rem_euclid(1440) == *from) {
                        step_from = Some(minute);
                    }
                    step_from.is_some_and(|first| (minute - first) % minutes == 0)
                }
                What::Clock { days, times, elapsed: false } => {
                    new.clone().any(|line| self.shows(line, days, times))
                }
                What::Clock { days, times, elapsed: true } => self.shows(line, days, times),
            };
            highest = highest.max(line);
            if minute > after && is_time && self.permits(minute) {
                return Some(minute);
            }
        }
        None
    }

    fn permits(&self, minute: i64) -> bool {
        let (date, in_day) = self.clock(minute);
        let within = |part: &Part| in_window(part, number_of(date.weekday()), in_day);
        (self.during.is_empty() || self.during.iter().any(within)) && !self.except.iter().any(within)
    }
}

/// Instants in minutes: many of them close to when clocks of the zones above are set.
fn instants() -> impl Strategy<Value = i64> {
    let set: Vec<i64> = [
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2026-04-04T15:00:00Z",
        "2026-10-03T15:30:00Z",
        "2018-11-04T03:00:00Z",
        "2018-02-18T02:00:00Z",
        "2026-03-08T05:00:00Z",
        "2028-02-28T12:00:00Z",
        "2026-12-31T12:00:00Z",
    ]
    .iter()
    .map(|text| i64::try_from(ms(text) / 60_000).unwrap())
    .collect();
    let near = (prop::sample::select(set), -2000_i64..300).prop_map(|(at, by)| at + by);
    prop_oneof![4 => near, 1 => 20_000_000_i64..40_000_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn next_and_latest_equal_looking_at_each_minute(
        (text, what) in recurrences(),
        zone in prop::sample::select(&ZONES[..]),
        (during_text, during) in windows(),
        (except_text, except) in windows(),
        after in instants(),
    ) {
        let clause = |word: &str, text: &str| if text.is_empty() { String::new() } else { format!(" {word} {text}") };
        let text = format!("{text} {zone}{}{}", clause("during", &during_text), clause("except", &except_text));
        let schedule = match text.parse::<Schedule>() {
            Ok(schedule) => schedule,
            Err(error) => {
                prop_assert_eq!(error.problem, ScheduleProblem::Never, "{}", text);
                return Ok(());
            }
        };
        prop_assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule.clone());
        let rules = TimeZoneDatabase::bundled().get(zone).unwrap();
        let oracle = Oracle { what: &what, during: &during, except: &except, zone: rules };
        let limit = after + 9 * 1440;
        let after_ms = u64::try_from(after).unwrap() * 60_000;
        let found = schedule.next(after_ms).map(|at| i64::try_from(at / 60_000).unwrap());
        let expected = oracle.next(after, limit);
        match expected {
            Some(_) => prop_assert_eq!(found, expected, "{} after {}", text, shown(after_ms)),
            None => prop_assert!(found.is_none_or(|at| at > limit), "{} after {}", text, shown(after_ms)),
        }
        if let Some(at) = schedule.next(after_ms) {
            prop_assert_eq!(schedule.latest(at), Some(at));
            prop_assert!(schedule.latest(at - 1).is_none_or(|before| before <= after_ms));
            prop_assert!(schedule.may_start(at));
        }
        if let Some(before) = schedule.latest(after_ms) {
            prop_assert!(before <= after_ms);
            prop_assert!(schedule.next(before).is_none_or(|next| next > after_ms));
        }
    }

    #[test]
    fn any_text_is_a_schedule_or_an_error(
        text in "(every|daily at|weekly on|monthly on|cron|.{0,8}) ?([0-9*/:,-]{0,9}|mon|last|from|hours?|during|missed|.{0,6} ?){0,8}",
    ) {
        match text.parse::<Schedule>() {
            Ok(schedule) => prop_assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule),
            Err(error) => prop_assert!(error.at >= 1 && error.at <= text.chars().count() + 1),
        }
    }
}
