//! Reading the text of a schedule. The grammar is in the module above.

use super::{
    MissedRun, Recurrence, SCHEDULE_CHARS_MAX, SCHEDULE_ITEMS_MAX, Schedule, ScheduleError, ScheduleProblem,
    cron::Cron,
    words::{DAY_MINUTES, Days, MonthDay, Nth, TimeOfDay, Window, weekday},
    zone::Zone,
};

/// A missed run may be this many hours late at most: a week.
const LATE_HOURS_MAX: u32 = 7 * 24;

/// Where in the text (in bytes), and what.
type Wrong = (usize, ScheduleProblem);

impl Schedule {
    /// Reads a schedule; one whose text names no time zone is by the wall clock of `zone`.
    pub fn parse_in(text: &str, zone: &Zone) -> Result<Self, ScheduleError> {
        let at = |(byte, problem): Wrong| ScheduleError {
            schedule: crate::shown(text, 80),
            at: text.get(..byte).map_or(0, |before| before.chars().count()) + 1,
            problem,
        };
        if text.len() > SCHEDULE_CHARS_MAX {
            return Err(at((0, ScheduleProblem::TooLong { max: SCHEDULE_CHARS_MAX })));
        }
        let mut words = Words { text, at: 0 };
        let schedule = schedule(&mut words, zone).map_err(at)?;
        if schedule.next(0).is_none() {
            return Err(at((0, ScheduleProblem::Never)));
        }
        Ok(schedule)
    }
}

/// The words of a text, in order. A comma is a word of its own.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let blanks = rest.len() - rest.trim_start().len();
        self.at += blanks;
        &self.text[self.at..]
    }

    /// The next word and where it begins; empty at the end.
    fn peek(&mut self) -> (usize, &'a str) {
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(rest.len());
        let end = if rest.starts_with(',') { 1 } else { end };
        (self.at, &rest[..end])
    }

    fn next(&mut self) -> (usize, &'a str) {
        let (at, word) = self.peek();
        self.at = at + word.len();
        (at, word)
    }

    /// What reaches to the next blank, commas included.
    fn field(&mut self) -> (usize, &'a str) {
        let rest = self.rest();
        let at = self.at;
        let field = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
        self.at += field.len();
        (at, field)
    }

    /// Takes the next word if it is this one.
    fn take(&mut self, wanted: &str) -> bool {
        let (_, word) = self.peek();
        let is_it = word.eq_ignore_ascii_case(wanted);
        if is_it {
            self.next();
        }
        is_it
    }

    fn expect(&mut self, wanted: &str, said: &'static str) -> Result<(), Wrong> {
        if self.take(wanted) { Ok(()) } else { Err(self.unexpected(said)) }
    }

    /// The next word is not what is wanted.
    fn unexpected(&mut self, wanted: &'static str) -> Wrong {
        match self.peek() {
            (at, "") => (at, ScheduleProblem::Ended { wanted }),
            (at, word) => (at, ScheduleProblem::Expected { wanted, found: shown(word) }),
        }
    }

    /// Items with commas between them.
    fn list<T>(
        &mut self,
        what: &'static str,
        item: fn(&mut Self) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let mut items = vec![item(self)?];
        while self.take(",") {
            if items.len() == SCHEDULE_ITEMS_MAX {
                return Err((self.at, ScheduleProblem::TooMany { what, max: SCHEDULE_ITEMS_MAX }));
            }
            items.push(item(self)?);
        }
        Ok(items)
    }
}

fn shown(word: &str) -> String {
    crate::shown(word, 40)
}

fn schedule(words: &mut Words<'_>, zone: &Zone) -> Result<Schedule, Wrong> {
    let recurrence = recurrence(words)?;
    let mut given_zone = None;
    let mut missed = None;
    let (mut during, mut except) = (Vec::new(), Vec::new());
    loop {
        let (at, word) = words.peek();
        let twice = |what| (at, ScheduleProblem::Twice { what });
        match word.to_ascii_lowercase().as_str() {
            "" => break,
            "during" if during.is_empty() => during = windows(words)?,
            "during" => return Err(twice("\"during\"")),
            "except" if except.is_empty() => except = windows(words)?,
            "except" => return Err(twice("\"except\"")),
            "missed" if missed.is_none() => missed = Some(missed_run(words)?),
            "missed" => return Err(twice("\"missed\"")),
            _ if given_zone.is_some() => {
                return Err(words.unexpected("\"during\", \"except\", \"missed\" or the end"));
            }
            "," | "and" => return Err(words.unexpected("a time zone, \"during\", \"except\" or \"missed\"")),
            _ => {
                let zone = word.parse().map_err(|unknown| (at, ScheduleProblem::Zone(unknown)))?;
                given_zone = Some(zone);
                words.next();
            }
        }
    }
    Ok(Schedule {
        recurrence,
        zone: given_zone.unwrap_or_else(|| zone.clone()),
        during,
        except,
        missed: missed.unwrap_or_default(),
    })
}

fn recurrence(words: &mut Words<'_>) -> Result<Recurrence, Wrong> {
    if words.take("every") {
        return every(words);
    }
    if words.take("daily") {
        return Ok(Recurrence::Daily { at: times(words)? });
    }
    if words.take("weekly") {
        words.expect("on", "\"on\" and weekdays")?;
        return Ok(Recurrence::Weekly { on: days(words)?, at: times(words)? });
    }
    if words.take("monthly") {
        words.expect("on", "\"on\" and days of the month")?;
        let on = words.list("days of a month", month_day)?;
        return Ok(Recurrence::Monthly { on, at: times(words)? });
    }
    if words.take("cron") {
        return cron(words);
    }
    Err(words.unexpected("\"every\", \"daily\", \"weekly\", \"monthly\" or \"cron\""))
}

fn every(words: &mut Words<'_>) -> Result<Recurrence, Wrong> {
    let (at, word) = words.peek();
    let count = match word {
        _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
            words.next();
            Some((at, word))
        }
        _ => None,
    };
    let (unit, max) = match words.peek().1.to_ascii_lowercase().as_str() {
        "minute" | "minutes" | "min" => (1, DAY_MINUTES),
        "hour" | "hours" => (60, 24),
        _ => return Err(words.unexpected("a number and \"minutes\" or \"hours\"")),
    };
    words.next();
    let count = match count {
        None => 1,
        Some((at, word)) => number("the interval", at, word, 1, max.into())?,
    };
    let from = if words.take("from") { time(words)? } else { TimeOfDay::MIDNIGHT };
    let minutes = u16::try_from(count).unwrap_or(max) * unit;
    Ok(Recurrence::Every { minutes, from })
}

fn number(what: &'static str, at: usize, word: &str, min: u32, max: u32) -> Result<u32, Wrong> {
    let is_number = word.bytes().all(|b| b.is_ascii_digit());
    word.parse()
        .ok()
        .filter(|number| is_number && (min..=max).contains(number))
        .ok_or_else(|| (at, ScheduleProblem::Number { what, min, max, found: shown(word) }))
}

/// `at` and times of day, in order and each once.
fn times(words: &mut Words<'_>) -> Result<Vec<TimeOfDay>, Wrong> {
    words.expect("at", "\"at\" and a time of day")?;
    let mut times = words.list("times of day", time)?;
    times.sort_unstable();
    times.dedup();
    Ok(times)
}

fn time(words: &mut Words<'_>) -> Result<TimeOfDay, Wrong> {
    match words.peek() {
        (_, "" | ",") => Err(words.unexpected("a time of day such as 22:30")),
        (at, word) => {
            words.next();
            let minutes = clock(word).filter(|minutes| *minutes < DAY_MINUTES);
            minutes
                .and_then(|minutes| TimeOfDay::new(minutes / 60, minutes % 60))
                .ok_or_else(|| (at, ScheduleProblem::Time { found: shown(word) }))
        }
    }
}

/// Minutes since midnight of a text such as `22:30`, up to 24:00.
fn clock(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !digits(hour) || !digits(minute) || hour.is_empty() || hour.len() > 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= DAY_MINUTES).then_some(minutes)
}

fn days(words: &mut Words<'_>) -> Result<Days, Wrong> {
    let ranges = words.list("weekdays", |words| {
        let range = day_range(words.peek().1).ok_or_else(|| words.unexpected("a weekday such as mon"))?;
        words.next();
        Ok(range)
    })?;
    Ok(ranges.into_iter().fold(Days::NONE, |days, (first, last)| days.with_range(first, last)))
}

/// `mon` or `mon-fri`.
fn day_range(word: &str) -> Option<(u8, u8)> {
    match word.split_once('-') {
        Some((first, last)) => Some((weekday(first)?, weekday(last)?)),
        None => weekday(word).map(|day| (day, day)),
    }
}

fn month_day(words: &mut Words<'_>) -> Result<MonthDay, Wrong> {
    let (at, word) = words.peek();
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        words.next();
        let day = number("the day of the month", at, word, 1, 31)?;
        return Ok(MonthDay::Day(u8::try_from(day).unwrap_or(31)));
    }
    let nth = Nth::ALL.iter().find(|(_, name)| word.eq_ignore_ascii_case(name));
    let Some((nth, _)) = nth else {
        return Err(words.unexpected("a day of the month such as 15, first mon or last day"));
    };
    words.next();
    let (at, word) = words.peek();
    let day = match (nth, weekday(word)) {
        (_, Some(day)) => MonthDay::Nth(*nth, day),
        (Nth::Last, None) if word.eq_ignore_ascii_case("day") => MonthDay::LastDay,
        (Nth::First, None) if word.eq_ignore_ascii_case("day") => MonthDay::Day(1),
        _ => return Err(words.unexpected("a weekday such as mon")),
    };
    words.at = at + word.len();
    Ok(day)
}

fn cron(words: &mut Words<'_>) -> Result<Recurrence, Wrong> {
    let mut fields = [(0, ""); 5];
    for field in &mut fields {
        *field = words.field();
        if field.1.is_empty() {
            let wanted = "five fields: minute, hour, day of the month, month and weekday";
            return Err((field.0, ScheduleProblem::Ended { wanted }));
        }
    }
    Cron::of(fields.map(|(_, text)| text))
        .map(Recurrence::Cron)
        .map_err(|(number, problem)| (fields[number].0, problem))
}

/// What follows `during` or `except`.
fn windows(words: &mut Words<'_>) -> Result<Vec<Window>, Wrong> {
    words.next();
    let mut windows = vec![window(words)?];
    while words.take("and") {
        if windows.len() == SCHEDULE_ITEMS_MAX {
            let problem = ScheduleProblem::TooMany { what: "windows", max: SCHEDULE_ITEMS_MAX };
            return Err((words.at, problem));
        }
        windows.push(window(words)?);
    }
    Ok(windows)
}

fn window(words: &mut Words<'_>) -> Result<Window, Wrong> {
    let days = if day_range(words.peek().1).is_some() { Some(days(words)?) } else { None };
    let (at, word) = words.peek();
    let Some((from, to)) = word.split_once('-').and_then(|(from, to)| clock(from).zip(clock(to))) else {
        return match days {
            Some(days) => Ok(Window::whole(days)),
            None => Err(words.unexpected("a window such as 20:00-06:00 or mon-fri 20:00-06:00")),
        };
    };
    words.next();
    if from % DAY_MINUTES == to {
        return Err((at, ScheduleProblem::EmptyWindow { found: shown(word) }));
    }
    Ok(Window { days: days.unwrap_or(Days::ALL), from: from % DAY_MINUTES, to })
}

fn missed_run(words: &mut Words<'_>) -> Result<MissedRun, Wrong> {
    words.next();
    if words.take("now") {
        return Ok(MissedRun::AtOnce);
    }
    if words.take("skip") {
        return Ok(MissedRun::Skip);
    }
    words.expect("within", "\"now\", \"skip\" or \"within\" and a number of hours")?;
    let (at, word) = words.next();
    let hours = number("the delay", at, word, 1, LATE_HOURS_MAX)?;
    if !words.take("hours") && !words.take("hour") {
        return Err(words.unexpected("\"hours\""));
    }
    Ok(MissedRun::Within { hours: u16::try_from(hours).unwrap_or(u16::MAX) })
}
