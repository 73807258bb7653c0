//! XML as descriptions of machines have it: elements with attributes and text, by their local names.
//!
//! Bounded in size, depth and number; a document that declares its own entities is refused, so that nothing in it grows.

use quick_xml::{
    Reader,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
};

use crate::{DESCRIPTION_BYTES_MAX, ExchangeError, error::Result};

const DEPTH_MAX: usize = 64;
const ELEMENTS_MAX: usize = 100_000;
const ATTRIBUTES_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    attributes: Vec<(String, String)>,
    /// Its own text, that of its children left out.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// An attribute by its local name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The trimmed text of a child; none if it is empty or not there.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }

    /// An attribute of a child.
    pub fn attribute_of(&self, child: &str, name: &str) -> Option<&str> {
        self.child(child)?.attribute(name)
    }
}

/// Parses a document; what it is taken for is for the message.
pub fn parse(bytes: &[u8], what: &'static str) -> Result<Element> {
    if bytes.len() > DESCRIPTION_BYTES_MAX {
        return Err(ExchangeError::TooMuch { what: "bytes", max: DESCRIPTION_BYTES_MAX });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| ExchangeError::NotThat { what })?;
    if !text.trim_start().starts_with('<') {
        return Err(ExchangeError::NotThat { what });
    }
    let mut builder = Builder::default();
    let mut reader = Reader::from_str(text);
    loop {
        let event = reader.read_event().map_err(damaged)?;
        if matches!(event, Event::Eof) {
            break;
        }
        builder.take(event)?;
    }
    builder.end().ok_or_else(|| ExchangeError::damaged("its outermost element does not end"))
}

#[derive(Default)]
struct Builder {
    /// Those that have begun and not ended, the outermost first.
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Start(start) => {
                let element = self.element(&start)?;
                if self.open.len() >= DEPTH_MAX {
                    return Err(ExchangeError::TooMuch {
                        what: "elements inside each other",
                        max: DEPTH_MAX,
                    });
                }
                self.open.push(element);
            }
            Event::Empty(start) => {
                let element = self.element(&start)?;
                self.close(element)?;
            }
            Event::End(_) => {
                // That names fit is the reader's to see.
                let element = self
                    .open
                    .pop()
                    .ok_or_else(|| ExchangeError::damaged("an element ends that did not begin"))?;
                self.close(element)?;
            }
            Event::Text(text) => self.say(&text.xml10_content().map_err(damaged)?),
            Event::CData(text) => self.say(&text.xml10_content().map_err(damaged)?),
            Event::GeneralRef(name) => match name.resolve_char_ref().map_err(damaged)? {
                Some(c) => self.say(c.encode_utf8(&mut [0; 4])),
                None => {
                    let name = name.decode().map_err(damaged)?;
                    let known = resolve_predefined_entity(&name);
                    self.say(known.ok_or_else(|| ExchangeError::damaged("it uses an entity of its own"))?);
                }
            },
            Event::DocType(_) => {
                return Err(ExchangeError::unsupported("it has a document type, which no description needs"));
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Eof => {}
        }
        Ok(())
    }

    fn element(&mut self, start: &BytesStart<'_>) -> Result<Element> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(ExchangeError::TooMuch { what: "elements", max: ELEMENTS_MAX });
        }
        let mut attributes = Vec::new();
        // Its own check for doubles takes the square of their number.
        for attribute in start.attributes().with_checks(false) {
            let attribute = attribute.map_err(damaged)?;
            if attributes.len() >= ATTRIBUTES_MAX {
                return Err(ExchangeError::TooMuch {
                    what: "attributes of one element",
                    max: ATTRIBUTES_MAX,
                });
            }
            let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(damaged)?;
            attributes.push((local(attribute.key.local_name().into_inner()), value.into_owned()));
        }
        Ok(Element { name: local(start.local_name().into_inner()), attributes, ..Element::default() })
    }

    fn close(&mut self, element: Element) -> Result<()> {
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None if self.root.is_none() => self.root = Some(element),
            None => return Err(ExchangeError::damaged("it has two outermost elements")),
        }
        Ok(())
    }

    fn say(&mut self, text: &str) {
        if let Some(open) = self.open.last_mut() {
            open.text.push_str(text);
        }
    }

    fn end(self) -> Option<Element> {
        if self.open.is_empty() { self.root } else { None }
    }
}

fn local(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn damaged(error: impl std::fmt::Display) -> ExchangeError {
    ExchangeError::damaged(crate::text::shown(&error.to_string()))
}

/// A text as it stands in a document that is written: what no document can hold is left out.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // As they are, readers make blanks of them in attributes.
            '\n' | '\r' | '\t' => out.push_str(&format!("&#{};", u32::from(c))),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_are_found_by_their_local_names() {
        let text = "\u{feff}<?xml version=\"1.0\"?><!-- c --><a:x xmlns:a=\"u\" a:k=\"1 &lt; 2\"><b>t&amp;&#65;<c/></b><b k='2'/></a:x>";
        let root = parse(text.as_bytes(), "test").expect("a document");
        assert_eq!((root.name.as_str(), root.attribute("k")), ("x", Some("1 < 2")));
        assert_eq!((root.text_of("b"), root.all("b").count()), (Some("t&A"), 2));
        assert_eq!(root.child("b").and_then(|b| b.child("c")).map(|c| c.name.as_str()), Some("c"));
    }

    #[test]
    fn what_grows_or_does_not_end_is_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaa\"><!ENTITY b \"&a;&a;\">]><x>&b;</x>";
        let deep = "<a>".repeat(DEPTH_MAX + 1) + &"</a>".repeat(DEPTH_MAX + 1);
        let wide =
            format!("<a {}/>", (0..=ATTRIBUTES_MAX).map(|n| format!("k{n}=\"\" ")).collect::<String>());
        for bad in
            [bomb, &deep, &wide, "<a>", "<a></b>", "<a/><b/>", "<a>&own;</a>", "", "no", "<a k=\"&own;\"/>"]
        {
            assert!(parse(bad.as_bytes(), "test").is_err(), "{bad}");
        }
        assert!(parse(b"<a>\xff</a>", "test").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(text in any::<String>()) {
            let plain: String = text.chars().filter(|c| *c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect();
            let document = format!("<a k=\"{0}\"><b>{0}</b></a>", escaped(&plain));
            let root = parse(document.as_bytes(), "test").expect("our own");
            prop_assert_eq!(root.attribute("k"), Some(plain.as_str()));
            prop_assert_eq!(&root.children[0].text, &plain);
        }

        #[test]
        fn no_document_makes_it_panic(text in "[<>/ab&;!?\\[\\]\"'=x# -]{0,200}") {
            let _ = parse(text.as_bytes(), "test");
        }
    }
}
