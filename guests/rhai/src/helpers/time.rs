//! The calendar of a moment, in UTC or at a fixed offset from it. There is no clock here: `now_ms` comes with the
//! question. Zones with daylight saving have rules that change, so a policy that needs them is told another offset.

use rhai::{Dynamic, Engine, EvalAltResult, INT, Map};

const DAY_MS: INT = 86_400_000;

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

fn local(ms: INT, offset: &str) -> Result<Map, Box<EvalAltResult>> {
    let offset_minutes = read_offset(offset)
        .ok_or_else(|| format!("\"{offset}\" is no offset from UTC; write \"+02:00\", \"-05:30\" or \"Z\""))?;
    Ok(calendar(ms.saturating_add(offset_minutes * 60_000)))
}

fn calendar(ms: INT) -> Map {
    let (days, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = date(days);
    // Day 0, the first of January 1970, was a Thursday.
    let weekday = (days + 3).rem_euclid(7);
    let name = usize::try_from(weekday).ok().and_then(|i| WEEKDAYS.get(i)).copied().unwrap_or_default();
    let of_second = of_day / 1_000;
    let number = |name: &str, value: INT| (name.into(), Dynamic::from(value));
    Map::from([
        number("year", year),
        number("month", month),
        number("day", day),
        number("hour", of_second / 3_600),
        number("minute", of_second / 60 % 60),
        number("second", of_second % 60),
        number("minute_of_day", of_second / 60),
        ("weekday".into(), name.into()),
    ])
}

/// Year, month and day of a number of days since 1970, by the Gregorian calendar's cycle of 400 years of 146 097 days;
/// years begin in March, so that the leap day is the last.
fn date(days: INT) -> (INT, INT, INT) {
    let since_march_0 = days + 719_468;
    let (era, of_era) = (since_march_0.div_euclid(146_097), since_march_0.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Months from March on are 153 days for each five.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let january_or_february = INT::from(month >= 10);
    (era * 400 + year + january_or_february, month + 3 - 12 * january_or_february, day)
}

fn read_offset(text: &str) -> Option<INT> {
    if matches!(text, "Z" | "z" | "UTC") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    read_clock(rest).filter(|minutes| *minutes <= 14 * 60).map(|minutes| sign * minutes)
}

/// Minutes of `09:30`; `24:00` is the end of a day.
fn read_clock(text: &str) -> Option<INT> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (INT, INT) = (hours.parse().ok()?, minutes.parse().ok()?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

fn minutes(text: &str) -> Result<INT, Box<EvalAltResult>> {
    read_clock(text)
        .ok_or_else(|| format!("\"{text}\" is no time of day; write \"09:30\", \"00:00\" to \"24:00\"").into())
}

pub(crate) fn register(engine: &mut Engine) {
    engine.register_fn("utc", calendar).register_fn("local", local).register_fn("minutes", minutes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(map: &Map) -> String {
        let n = |field: &str| map[field].as_int().unwrap();
        let weekday = map["weekday"].clone().into_string().unwrap();
        let (date, time) = ([n("year"), n("month"), n("day")], [n("hour"), n("minute"), n("second")]);
        format!("{weekday} {date:?} {time:?} {}", n("minute_of_day"))
    }

    #[test]
    fn moments_have_the_date_that_calendars_say() {
        for (ms, expected) in [
            (0, "thu [1970, 1, 1] [0, 0, 0] 0"),
            (-1, "wed [1969, 12, 31] [23, 59, 59] 1439"),
            (951_827_696_789, "tue [2000, 2, 29] [12, 34, 56] 754"),
            (1_709_251_199_000, "thu [2024, 2, 29] [23, 59, 59] 1439"),
            (1_709_251_200_000, "fri [2024, 3, 1] [0, 0, 0] 0"),
            (4_107_542_400_000, "mon [2100, 3, 1] [0, 0, 0] 0"),
            (1_767_225_599_999, "wed [2025, 12, 31] [23, 59, 59] 1439"),
        ] {
            assert_eq!(text(&calendar(ms)), expected, "{ms}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_follows_the_one_before() {
        let mut before = date(-146_097);
        for days in -146_096..146_097 {
            let (year, month, day) = date(days);
            let next_day = (year, month) == (before.0, before.1) && day == before.2 + 1;
            let next_month = day == 1 && before.2 >= 28 && (year * 12 + month) == (before.0 * 12 + before.1) + 1;
            assert!(next_day || next_month, "{before:?} {:?}", (year, month, day));
            before = (year, month, day);
        }
    }

    #[test]
    fn offsets_move_the_calendar() {
        assert_eq!(text(&local(0, "+05:30").unwrap()), "thu [1970, 1, 1] [5, 30, 0] 330");
        assert_eq!(text(&local(0, "-01:00").unwrap()), "wed [1969, 12, 31] [23, 0, 0] 1380");
        assert_eq!(local(0, "Z").unwrap()["hour"].as_int(), Ok(0));
        for wrong in ["", "2", "+2", "+02", "+2:00", "+15:00", "02:00", "+02:60", "+é2:00", "é"] {
            assert!(local(0, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_of_day_are_minutes() {
        assert_eq!((minutes("00:00").unwrap(), minutes("09:30").unwrap(), minutes("24:00").unwrap()), (0, 570, 1_440));
        for wrong in ["9:30", "24:01", "12:60", "noon", "-1:00", "1200", ""] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }
}
