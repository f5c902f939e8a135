//! Checks of JSON text that come before or after the parser: its nesting, and what a command's body may look like at all.
//! Nothing here reads values.

use super::DEPTH_MAX;

/// Why bytes are not the body of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("the body is not UTF-8: byte {0} does not continue it")]
    Utf8(usize),
    #[error("the body must be a JSON object")]
    NotAnObject,
    #[error("the body is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// The JSON text of a command's arguments: an object, or nothing, which stands for an empty one. Whether it is well formed
/// inside is left to the parser.
pub(super) fn arguments(body: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(body).map_err(|error| Error::Utf8(error.valid_up_to()))?;
    match body.iter().find(|byte| !is_space(**byte)) {
        None => Ok("{}"),
        Some(b'{') if is_deeper_than(DEPTH_MAX, body) => Err(Error::TooDeep),
        Some(b'{') => Ok(text),
        Some(_) => Err(Error::NotAnObject),
    }
}

/// Whether `json` is nested deeper than `depth_max`. Brackets inside strings do not count.
pub(super) fn is_deeper_than(depth_max: usize, json: &[u8]) -> bool {
    // Every level needs two bytes, so that most texts need not be looked at.
    if json.len() <= 2 * depth_max {
        return false;
    }
    let mut depth = 0_usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' if depth == depth_max => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    false
}

/// Moves past the closing quote of a string whose opening quote has been read.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// RFC 8259's insignificant white space.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The same JSON with whole numbers written as such: `3` for `3.0` and for `0.3e1`, which JSON Schema takes for the same
/// integer and parsers of integers do not. `None` if there is nothing to write otherwise.
pub(super) fn with_whole_numbers(json: &str) -> Option<String> {
    let mut written = String::with_capacity(json.len());
    let mut rest = json;
    let mut is_changed = false;
    while let Some(start) = rest.find(|sign: char| sign == '"' || sign == '-' || sign.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        written.push_str(before);
        let length = if from.starts_with('"') {
            let mut bytes = from.as_bytes()[1..].iter();
            skip_string(&mut bytes);
            from.len() - bytes.len()
        } else {
            from.find(|sign| !matches!(sign, '0'..='9' | '.' | 'e' | 'E' | '+' | '-')).unwrap_or(from.len())
        };
        let (token, after) = from.split_at(length);
        let whole = if token.starts_with('"') { None } else { whole_number(token) };
        is_changed |= whole.is_some();
        written.push_str(whole.as_deref().unwrap_or(token));
        rest = after;
    }
    written.push_str(rest);
    is_changed.then_some(written)
}

/// Up to here all whole numbers are doubles.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A number with a fraction or an exponent, if it is whole for all that.
fn whole_number(number: &str) -> Option<String> {
    let value: f64 = serde_json::from_str(number).ok()?;
    if number.contains(['e', 'E']) {
        let is_whole = value.fract() == 0.0 && value.abs() <= EXACT_MAX;
        return is_whole.then(|| format!("{}", value as i64));
    }
    // By its digits, because a double may have rounded it.
    let (whole, fraction) = number.split_once('.')?;
    let is_whole = fraction.bytes().all(|digit| digit == b'0');
    is_whole.then(|| if whole == "-0" { "0" } else { whole }.to_owned())
}

/// One more step of a JSON Pointer (RFC 6901, 3).
pub(super) fn push_segment(pointer: &mut String, name: &str) {
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
}

/// A text for people, cut at `bytes_max`: it may repeat what a client sent.
pub(super) fn shorten(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth)).into()
    }

    #[test]
    fn the_deepest_body_has_64_levels() {
        assert!(arguments(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(arguments(&nested(DEPTH_MAX + 1)), Err(Error::TooDeep));
        assert!(is_deeper_than(DEPTH_MAX, "[".repeat(1_000_000).as_bytes()));
    }

    #[test]
    fn brackets_in_strings_are_no_nesting() {
        let text = format!(r#"{{"a":"\"{}","b":1}}"#, "[{".repeat(200));
        assert!(!is_deeper_than(DEPTH_MAX, text.as_bytes()));
        let wide = format!("[{}0]", "[],".repeat(1000));
        assert!(!is_deeper_than(DEPTH_MAX, wide.as_bytes()));
    }

    #[test]
    fn no_body_is_an_empty_object() {
        assert_eq!(arguments(b""), Ok("{}"));
        assert_eq!(arguments(b" \r\n\t"), Ok("{}"));
        assert_eq!(arguments(b"[]"), Err(Error::NotAnObject));
        assert_eq!(arguments(b"null"), Err(Error::NotAnObject));
        assert_eq!(arguments(b"{\"a\":\"\xff\"}"), Err(Error::Utf8(6)));
    }

    #[test]
    fn whole_numbers_are_written_without_fraction_and_nothing_else_is_touched() {
        for (json, written) in [
            ("[1.0]", "[1]"),
            ("[-1.000,2.5,-0.0,10]", "[-1,2.5,0,10]"),
            ("{\"a\":1e3,\"b\":25E-1,\"c\":0.3e1}", "{\"a\":1000,\"b\":25E-1,\"c\":3}"),
            // Beyond what doubles can tell apart.
            ("18446744073709551615.0", "18446744073709551615"),
            ("{\"ä1.0\":\"2.0\\\"3.0\",\"a\":4.0}", "{\"ä1.0\":\"2.0\\\"3.0\",\"a\":4}"),
        ] {
            assert_eq!(with_whole_numbers(json).as_deref(), Some(written));
        }
        for json in ["", "[1,-2]", "[1.5]", "\"1.0\"", "\"1.0", "1.", ".0", "01.0", "-", "1e", "1e400", "1e17", "1.0.0"]
        {
            assert_eq!(with_whole_numbers(json), None, "{json}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten("äöü".into(), 3), "ä…");
        assert_eq!(shorten("äöü".into(), 6), "äöü");
    }
}
