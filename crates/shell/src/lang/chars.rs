//! Which characters PowerShell's grammar treats alike: a word processor's quotes and dashes are as good as ASCII's.

pub fn is_single_quote(c: char) -> bool {
    matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201A}' | '\u{201B}')
}

pub fn is_double_quote(c: char) -> bool {
    matches!(c, '"' | '\u{201C}' | '\u{201D}' | '\u{201E}')
}

/// Hyphen-minus, en dash, em dash, horizontal bar.
pub fn is_dash(c: char) -> bool {
    matches!(c, '-' | '\u{2013}' | '\u{2014}' | '\u{2015}')
}

/// White space within a line; pages often carry no-break spaces.
pub fn is_space(c: char) -> bool {
    !is_newline(c) && (c.is_whitespace() || c == '\u{FEFF}')
}

pub fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

/// Characters of a variable's or member's name.
pub fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Characters that end a bare word.
pub fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '{' | '}' | '(' | ')' | ';' | ',' | '|' | '&' | '<' | '>')
}
