//! Event streams as bytes (HTML standard, "Server-sent events"), taken apart into messages. Pure; bounded per message.

/// Longest message that is taken in: an event's data has at most 1 MiB, and its JSON and names come on top.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One message. What a message leaves out is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) data: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("a message of the event stream is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the event stream is not UTF-8")]
    NotText,
}

#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// The line that has begun.
    line: Vec<u8>,
    /// The last byte ended a line as a carriage return, so that a line feed after it ends none.
    after_return: bool,
    is_past_first_line: bool,
    message: Message,
    /// It has data, if only empty.
    has_data: bool,
    /// How long the server wants a reader to wait before it comes back, in milliseconds.
    pub(crate) retry_millis: Option<u64>,
}

impl Parser {
    /// Takes in what came next, and gives each message that ended in it to `deliver`.
    pub(crate) fn push(&mut self, bytes: &[u8], mut deliver: impl FnMut(Message)) -> Result<(), Error> {
        for byte in bytes {
            match byte {
                b'\n' if self.after_return => self.after_return = false,
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    let line = std::str::from_utf8(&line).map_err(|_| Error::NotText)?;
                    let has_mark = !std::mem::replace(&mut self.is_past_first_line, true);
                    let line = if has_mark { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
                    if let Some(message) = self.take_line(line) {
                        deliver(message);
                    }
                }
                byte => {
                    self.after_return = false;
                    if self.line.len() + self.message.data.len() >= MESSAGE_BYTES_MAX {
                        return Err(Error::TooLong);
                    }
                    self.line.push(*byte);
                }
            }
        }
        Ok(())
    }

    /// One whole line; an empty one ends a message.
    fn take_line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let mut message = std::mem::take(&mut self.message);
            // An id without data is kept by readers that show it again; ours come from messages with data.
            if !std::mem::take(&mut self.has_data) {
                return None;
            }
            message.data.pop();
            return Some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.has_data = true;
                self.message.data.push_str(value);
                self.message.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.message.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_millis = value.parse().ok();
            }
            // Comments have an empty name; whatever else there is, is ignored.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(stream: &[u8], step: usize) -> Vec<(String, String)> {
        let (mut parser, mut messages) = (Parser::default(), Vec::new());
        for piece in stream.chunks(step) {
            parser.push(piece, |message| messages.push((message.id, message.data))).unwrap();
        }
        messages
    }

    fn expected(messages: &[(&str, &str)]) -> Vec<(String, String)> {
        messages.iter().map(|(id, data)| ((*id).to_owned(), (*data).to_owned())).collect()
    }

    #[test]
    fn messages_are_the_same_however_their_bytes_and_lines_are_cut() {
        let stream = "\u{feff}: ping\n\nretry: 500\n\nid: 1\ndata: {\"a\":\ndata: 1}\n\nid:2\ndata:ü\nevent: x\n\nid: 3\n\ndata: cut";
        let messages = expected(&[("1", "{\"a\":\n1}"), ("2", "ü")]);
        for end in ["\n", "\r", "\r\n"] {
            let stream = stream.replace('\n', end).into_bytes();
            for step in 1..stream.len() {
                assert_eq!(parse(&stream, step), messages, "{end:?} {step}");
            }
        }
    }

    #[test]
    fn empty_data_is_data_and_what_is_not_known_is_ignored() {
        assert_eq!(parse(b"data\n\n: x\nfoo: bar\ndata:  two\nid: a\0b\n\n", 3), expected(&[("", ""), ("", " two")]));
        let mut parser = Parser::default();
        parser.push(b"retry: 700\nretry: x\nretry:\n", |_| ()).unwrap();
        assert_eq!(parser.retry_millis, Some(700));
    }

    #[test]
    fn a_message_without_end_is_refused_in_one_line_or_many() {
        for piece in [b"x".repeat(65_536), b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(2000)] {
            let mut parser = Parser::default();
            let refused = (0..=2 * MESSAGE_BYTES_MAX / piece.len()).find_map(|_| parser.push(&piece, |_| ()).err());
            assert_eq!(refused, Some(Error::TooLong));
        }
        assert_eq!(Parser::default().push(b"data: \xff\n", |_| ()), Err(Error::NotText));
    }
}
