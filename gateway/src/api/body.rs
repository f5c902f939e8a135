//! Takes in a request's body within its limits of size and nesting.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use berth_shared::problem::Code;

use super::problem::Problem;

/// Longest request body.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How much of a refused body is read and thrown away, so that its sender gets to read the answer.
const DISCARDED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Deepest nesting of arrays and objects in a body.
const DEPTH_MAX: u32 = 64;

/// The whole body, of at most `most` bytes; stops reading at the first byte too many. A body in one piece is not copied.
pub(crate) async fn collect<B>(body: &mut B, most: usize) -> Result<Bytes, Problem>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = |_| Problem::invalid("the body broke off or is not framed as its headers say");
        // Trailers are not of interest.
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > most {
            return Err(too_large());
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// Reads on what a refused request still sends, up to a bound. A connection that is closed with unread bytes is reset, and
/// the client would see that instead of its answer.
pub(crate) async fn discard<B>(body: &mut B)
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut discarded = 0;
    while discarded < DISCARDED_BYTES_MAX
        && !body.is_end_stream()
        && let Some(Ok(frame)) = body.frame().await
    {
        discarded += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// Bounds the nesting of JSON that is parsed later, elsewhere. Whether it is JSON at all is for the kind's decoder to say.
pub(crate) fn check_depth(json: &[u8]) -> Result<(), Problem> {
    let mut depth = 0_u32;
    let mut in_string = false;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Problem::invalid("JSON may be nested 64 deep"));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Bounds the arguments of a command, however they are wrapped.
pub(crate) fn check_size(bytes: usize) -> Result<(), Problem> {
    if bytes > BODY_BYTES_MAX { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> Problem {
    Problem::new(Code::TooLarge, "a body may have 1 MiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        let mut json = vec![b'['; depth];
        json.extend(vec![b']'; depth]);
        json
    }

    #[test]
    fn nesting_is_allowed_up_to_64() {
        assert!(check_depth(&nested(64)).is_ok());
        assert!(check_depth(&nested(65)).is_err());
        assert!(check_depth("[{},".repeat(200).replace("[{},", "{},").as_bytes()).is_ok(), "siblings are not nesting");
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let text = format!(r#"{{"a":"{}\"{}\\"}}"#, "[".repeat(100), "{".repeat(100));
        assert!(check_depth(text.as_bytes()).is_ok());
        let after = format!(r#"{{"a":"\\","b":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
        assert!(check_depth(after.as_bytes()).is_err(), "an escaped backslash ends before the quote");
    }

    fn depth_of(value: &serde_json::Value) -> u32 {
        match value {
            serde_json::Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
            serde_json::Value::Object(fields) => 1 + fields.values().map(depth_of).max().unwrap_or(0),
            _ => 0,
        }
    }

    proptest! {
        #[test]
        fn the_scan_agrees_with_a_parser(depth in 60_usize..70, text in "[\\[\\]{}\"\\\\a]{0,20}") {
            let text = serde_json::to_string(&text).unwrap();
            let json = format!("{}{text}{}", "[".repeat(depth), "]".repeat(depth));
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(check_depth(json.as_bytes()).is_ok(), depth_of(&parsed) <= DEPTH_MAX);
        }
    }
}
