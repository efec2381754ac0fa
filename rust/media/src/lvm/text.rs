//! LVM's own text (`lib/config` of LVM): sections of names and values.

use std::ops::Range;

/// The most nested sections of metadata, and the most values in it.
const DEPTH: usize = 12;
pub(super) const VALUES: usize = 1 << 16;

/// A value.
#[derive(Debug)]
pub(super) enum Value {
    /// A number, and where in the text it is.
    Number(u64, Range<usize>),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Names and values, in order.
#[derive(Debug)]
pub(super) struct Section(pub Vec<(String, Value)>);

impl Value {
    pub fn section(&self) -> Option<&Section> {
        if let Self::Section(section) = self { Some(section) } else { None }
    }

    fn list(&self) -> Option<&[Value]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }
}

impl Section {
    /// Read a text; `None` where it makes no sense.
    pub fn parse(text: &str) -> Option<Self> {
        Parser { text, rest: text.trim_end_matches('\0'), values: 0 }.section(0)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub fn section(&self, name: &str) -> Option<&Section> {
        self.get(name)?.section()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        if let Some(Value::Number(number, _)) = self.get(name) { Some(*number) } else { None }
    }

    /// Where in the text the number of this name is.
    pub fn place(&self, name: &str) -> Option<Range<usize>> {
        if let Some(Value::Number(_, place)) = self.get(name) { Some(place.clone()) } else { None }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        if let Some(Value::Text(text)) = self.get(name) { Some(text) } else { None }
    }

    pub fn list(&self, name: &str) -> &[Value] {
        self.get(name).and_then(Value::list).unwrap_or_default()
    }

    /// Whether a list has this word.
    pub fn lists(&self, name: &str, word: &str) -> bool {
        self.list(name).iter().any(|value| matches!(value, Value::Text(text) if text == word))
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    values: usize,
}

impl<'a> Parser<'a> {
    /// Skip blanks and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn take(&mut self, token: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> Option<&'a str> {
        self.skip();
        let part = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
        let end = self.rest.find(|c: char| !part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(word).filter(|word| !word.is_empty())
    }

    fn section(&mut self, depth: usize) -> Option<Section> {
        let mut values = Vec::new();
        loop {
            self.skip();
            if self.rest.is_empty() || self.take('}') {
                return Some(Section(values));
            }
            let name = self.word()?.to_owned();
            let value = if self.take('{') {
                (depth < DEPTH).then_some(())?;
                Value::Section(self.section(depth + 1)?)
            } else {
                self.take('=').then_some(())?;
                self.value()?
            };
            values.push((name, value));
        }
    }

    fn value(&mut self) -> Option<Value> {
        self.values += 1;
        (self.values < VALUES).then_some(())?;
        if self.take('"') {
            return self.quoted().map(Value::Text);
        }
        if self.take('[') {
            let mut list = Vec::new();
            while !self.take(']') {
                let item = self.value()?;
                // Lists have no lists.
                (!matches!(item, Value::List(_))).then_some(())?;
                list.push(item);
                self.take(',');
            }
            return Some(Value::List(list));
        }
        let word = self.word()?;
        let end = self.text.trim_end_matches('\0').len() - self.rest.len();
        let place = end - word.len()..end;
        Some(
            word.parse().map_or_else(
                |_| Value::Text(word.to_owned()),
                |number| Value::Number(number, place),
            ),
        )
    }

    /// The rest of a quoted text: a backslash takes what follows literally.
    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => text.push(characters.next()?.1),
                other => text.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Section;

    #[test]
    fn quotes_in_a_text_are_escaped() {
        let text = "a {\nn = 12 # twelve\n}\nd = \"after 'lvcreate -n \\\"x\\\"'\"\nm = 3\0";
        let found = Section::parse(text).unwrap();
        assert_eq!(found.text("d"), Some("after 'lvcreate -n \"x\"'"));
        assert_eq!(found.number("m"), Some(3));
        let place = found.section("a").unwrap().place("n").unwrap();
        assert_eq!(&text[place], "12");
    }
}
