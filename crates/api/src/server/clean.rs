//! Makes harmless what a node inside a machine says.
//!
//! Its texts end up on terminals and in logs: control characters could move the cursor or hide lines, and
//! length could fill memory. Line breaks stay in errors, whose messages may have several lines. Nothing here may fail: a hostile text becomes a dull one.

use crate::v1::{ErrorBody, Event, Tree, TreeVm};

/// The longest word, such as a name, and the longest sentence, in characters.
const WORD_CHARS_MAX: usize = 100;
const SENTENCE_CHARS_MAX: usize = 1000;

/// The most lines of an error's message; what follows goes on in the last one.
const LINES_MAX: usize = 12;

/// The most addresses that are kept of one machine.
const ADDRESSES_MAX: usize = 32;

fn cut(text: &mut String, chars_max: usize) {
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
    }
    if text.chars().any(is_unfit) {
        *text = text.chars().map(|c| if is_unfit(c) { '\u{fffd}' } else { c }).collect();
    }
}

/// Control characters, and those that reverse the direction of text.
fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn word(text: &mut String) {
    cut(text, WORD_CHARS_MAX);
}

fn sentence(text: &mut String) {
    cut(text, SENTENCE_CHARS_MAX);
}

/// Several lines, each made harmless.
fn lines(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(SENTENCE_CHARS_MAX) {
        text.truncate(end);
    }
    let line = |line: &str| {
        let mut line = line.strip_suffix('\r').unwrap_or(line).to_owned();
        sentence(&mut line);
        line
    };
    *text = text.splitn(LINES_MAX, '\n').map(line).collect::<Vec<_>>().join("\n");
}

pub(super) fn error(body: &mut ErrorBody) {
    lines(&mut body.message);
    body.hint.iter_mut().for_each(lines);
    body.object.iter_mut().for_each(word);
}

pub(super) fn event(event: &mut Event) {
    word(&mut event.kind);
    word(&mut event.object);
    sentence(&mut event.message);
    event.path.iter_mut().for_each(sentence);
}

/// Keeps at most `vms_left` machines on at most `levels` levels.
pub(super) fn tree(tree: &mut Tree, levels: usize, vms_left: &mut usize) {
    word(&mut tree.host);
    word(&mut tree.engine);
    tree.vms.truncate(*vms_left);
    *vms_left -= tree.vms.len();
    for vm in &mut tree.vms {
        tree_vm(vm, levels, vms_left);
    }
}

fn tree_vm(vm: &mut TreeVm, levels: usize, vms_left: &mut usize) {
    word(&mut vm.name);
    vm.state_reason.iter_mut().for_each(sentence);
    vm.inside_error.iter_mut().for_each(sentence);
    vm.addresses.truncate(ADDRESSES_MAX);
    vm.addresses.iter_mut().for_each(word);
    match (&mut vm.inside, levels) {
        (Some(inside), 2..) => tree(inside, levels - 1, vms_left),
        (Some(_), _) => {
            vm.inside = None;
            vm.inside_error = Some("the levels below this one are too many to show".to_owned());
        }
        (None, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ErrorCode, VmState};

    fn host(vms: Vec<TreeVm>) -> Tree {
        Tree { host: "h".into(), engine: "tcg".into(), logical_processors: 1, memory_bytes: 1, vms }
    }

    fn vm(inside: Option<Tree>) -> TreeVm {
        TreeVm {
            name: "x".repeat(5000),
            state: VmState::Running,
            state_reason: None,
            processor_count: 1,
            cpu_usage_percent: 0,
            memory_bytes: 1,
            addresses: vec!["10.0.0.1".into(); 5000],
            inside: inside.map(Box::new),
            inside_error: None,
        }
    }

    fn count(tree: &Tree) -> (usize, usize) {
        let below: Vec<_> = tree.vms.iter().filter_map(|v| v.inside.as_deref()).map(count).collect();
        let depth = below.iter().map(|b| b.1).max().unwrap_or(0) + 1;
        (tree.vms.len() + below.iter().map(|b| b.0).sum::<usize>(), depth)
    }

    #[test]
    fn a_tree_keeps_its_size_whatever_a_machine_says() {
        let mut deep = host(vec![vm(None)]);
        for _ in 0..20 {
            deep = host(vec![vm(Some(deep)), vm(None), vm(None)]);
        }
        let mut left = 10;
        tree(&mut deep, 4, &mut left);
        assert_eq!(count(&deep), (10, 4));
        assert_eq!(left, 0);
        assert_eq!(deep.vms[0].name.len(), WORD_CHARS_MAX);
        assert_eq!(deep.vms[0].addresses.len(), ADDRESSES_MAX);
    }

    #[test]
    fn a_sentence_cannot_move_the_cursor() {
        let mut body = ErrorBody {
            code: ErrorCode::Failed,
            message: "ok\u{1b}[2J\r仮".repeat(1000),
            hint: Some("\u{202e}x".into()),
            object: None,
        };
        error(&mut body);
        assert!(body.message.starts_with("ok\u{fffd}[2J\u{fffd}仮ok"));
        assert_eq!(body.message.chars().count(), SENTENCE_CHARS_MAX);
        assert_eq!(body.hint.as_deref(), Some("\u{fffd}x"));
    }

    #[test]
    fn an_error_keeps_its_lines_but_not_any_number_of_them() {
        let mut text = "It failed.\r\n\n\tWhy\u{1b}[A".to_owned();
        lines(&mut text);
        assert_eq!(text, "It failed.\n\n\u{fffd}Why\u{fffd}[A");
        let mut text = "x\n".repeat(SENTENCE_CHARS_MAX);
        lines(&mut text);
        assert_eq!(text.lines().count(), LINES_MAX);
        assert_eq!(text.chars().count(), SENTENCE_CHARS_MAX);
    }
}
