//! The `traceparent` and `tracestate` of W3C Trace Context (level 2): reading, writing and continuing them. Pure, and without
//! allocation where there is no `tracestate`, because every request passes here whether or not spans are exported.

use std::borrow::Cow;
use std::fmt;

use crate::seam::Random;

/// Which trace a request belongs to, and which span in it asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// Invariant: not zero.
    trace_id: u128,
    /// Invariant: not zero.
    parent_id: u64,
    flags: u8,
}

/// A trace, and what systems on its way have noted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext<'a> {
    pub parent: Traceparent,
    /// As in the header; empty where there is none. Whether it is well-formed is not looked at here.
    pub state: &'a str,
}

/// Longer ones are dropped, as the standard allows.
const STATE_BYTES_MAX: usize = 512;
/// The bit that says the caller records this trace.
const SAMPLED: u8 = 1;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

/// The text of a [`Traceparent`], on the stack.
#[derive(Clone, Copy)]
pub struct TraceparentText([u8; LENGTH]);

impl Traceparent {
    /// `None` when either id is zero, which the standard reserves.
    pub fn new(trace_id: u128, parent_id: u64, sampled: bool) -> Option<Self> {
        (trace_id != 0 && parent_id != 0).then_some(Self { trace_id, parent_id, flags: u8::from(sampled) })
    }

    /// A trace that starts here; recorded by whoever exports spans.
    pub fn start(random: &dyn Random) -> Self {
        Self { trace_id: random.next_u128().max(1), parent_id: random.next_u64().max(1), flags: SAMPLED }
    }

    /// What a header says. As the standard demands, a malformed one is as good as none, and a version above 00 is read by
    /// the rules of 00, ignoring what follows.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let version = hexadecimal(bytes.get(..2)?)?;
        let separated = bytes.len() >= LENGTH && [2, 35, 52].into_iter().all(|i| bytes[i] == b'-');
        let ended = if version == 0 { bytes.len() == LENGTH } else { matches!(bytes.get(LENGTH), None | Some(b'-')) };
        if !separated || !ended || version == 0xff {
            return None;
        }
        let trace_id = hexadecimal(&bytes[3..35])?;
        let parent_id = hexadecimal(&bytes[36..52])? as u64;
        let flags = hexadecimal(&bytes[53..55])? as u8;
        (trace_id != 0 && parent_id != 0).then_some(Self { trace_id, parent_id, flags: flags & SAMPLED })
    }

    /// The same trace, asked for by a new span.
    pub fn child(self, random: &dyn Random) -> Self {
        Self { parent_id: random.next_u64().max(1), ..self }
    }

    pub fn trace_id(self) -> u128 {
        self.trace_id
    }

    pub fn parent_id(self) -> u64 {
        self.parent_id
    }

    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The trace id as 32 hexadecimal digits, as problem documents and logs show it.
    pub fn trace_id_text(self) -> String {
        self.text().as_str()[3..35].to_owned()
    }

    pub fn text(self) -> TraceparentText {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hexadecimal(&mut text[3..35], self.trace_id);
        write_hexadecimal(&mut text[36..52], u128::from(self.parent_id));
        write_hexadecimal(&mut text[53..55], u128::from(self.flags));
        TraceparentText(text)
    }
}

impl<'a> TraceContext<'a> {
    /// What the headers say. Without a well-formed `traceparent`, a `tracestate` means nothing.
    pub fn of_headers(traceparent: &str, state: &'a str) -> Option<Self> {
        let fits = state.len() <= STATE_BYTES_MAX && state.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        Some(Self { parent: Traceparent::parse(traceparent)?, state: if fits { state.trim_ascii() } else { "" } })
    }

    /// What [`Self::text_with`] has written.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (parent, state) = text.split_once(' ').unwrap_or((text, ""));
        Self::of_headers(parent, state)
    }

    /// As pods tell each other: the `traceparent`, whose text is `parent`, and after a space the `tracestate`, if there is one.
    pub fn text_with(parent: &'a TraceparentText, state: &str) -> Cow<'a, str> {
        match state {
            "" => Cow::Borrowed(parent.as_str()),
            state => Cow::Owned(format!("{} {state}", parent.as_str())),
        }
    }
}

/// Lower-case digits only: the standard allows no others.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

fn write_hexadecimal(text: &mut [u8], mut value: u128) {
    for place in text.iter_mut().rev() {
        *place = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

impl TraceparentText {
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever written, so that this is never the fallback.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for TraceparentText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seam::random::SeededRandom;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_standard_is_read_and_written_back() {
        let parent = Traceparent::parse(EXAMPLE).unwrap();
        assert_eq!(parent.trace_id(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(parent.parent_id(), 0xb7ad_6b71_6920_3331);
        assert!(parent.is_sampled());
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(parent.trace_id_text(), "0af7651916cd43dd8448eb211c80319c");
    }

    #[test]
    fn a_child_stays_in_the_trace() {
        let random = SeededRandom::new(7);
        let parent = Traceparent::parse(EXAMPLE).unwrap();
        let child = parent.child(&random);
        assert_eq!((child.trace_id(), child.is_sampled()), (parent.trace_id(), true));
        assert_ne!(child.parent_id(), parent.parent_id());
    }

    #[test]
    fn malformed_headers_are_as_good_as_none() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-001",
            "00-0af7651916cd43dd8448eb211c80319ü-b7ad6b7169203331-0",
        ] {
            assert_eq!(Traceparent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_later_version_is_read_by_the_rules_of_this_one() {
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-what-the-future-holds";
        assert_eq!(Traceparent::parse(later), Traceparent::parse(EXAMPLE));
        assert_eq!(Traceparent::parse("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03x"), None);
    }

    #[test]
    fn a_state_goes_with_its_trace_and_a_bad_one_is_dropped() {
        let parent = Traceparent::parse(EXAMPLE).unwrap();
        let state = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE, a@b=c d";
        let text = parent.text();
        let context = TraceContext { parent, state };
        assert_eq!(TraceContext::parse(&TraceContext::text_with(&text, state)), Some(context));
        assert_eq!(TraceContext::text_with(&text, ""), EXAMPLE);
        assert_eq!(TraceContext::parse(EXAMPLE), Some(TraceContext { parent, state: "" }));
        assert_eq!(TraceContext::of_headers("nonsense", state), None);
        for bad in [format!("a={}", "x".repeat(511)), "a=\u{1}".to_owned(), "a=ü".to_owned()] {
            assert_eq!(TraceContext::of_headers(EXAMPLE, &bad), Some(TraceContext { parent, state: "" }));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(trace_id in 1_u128.., parent_id in 1_u64.., sampled: bool) {
            let parent = Traceparent::new(trace_id, parent_id, sampled);
            prop_assert!(parent.is_some());
            prop_assert_eq!(Traceparent::parse(parent.unwrap().text().as_str()), parent);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = Traceparent::parse(&text);
            let _ = TraceContext::parse(&text);
        }
    }
}
