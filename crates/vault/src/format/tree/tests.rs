use proptest::prelude::*;

use super::*;
use crate::format::pack::BlobKind;

fn time() -> Timestamp {
    "2026-11-26T22:00:22.128987569Z".parse().unwrap()
}

fn id(byte: u8) -> BlobId {
    BlobId([byte; 32])
}

/// A tree of one file, with `name` as it stands in JSON.
fn named(name: &str) -> Result<Tree, FormatError> {
    let node = Node::file("x", 0, Vec::new(), time());
    let text = String::from_utf8(encode(&Tree { nodes: vec![node] })).unwrap();
    decode(text.replacen("\"x\"", &format!("\"{name}\""), 1).as_bytes())
}

#[test]
fn a_tree_is_written_as_restic_does() {
    let file = Node::file("data", 6, vec![id(1), id(0xab)], time());
    let tree = Tree::new(vec![file, Node::dir("<a>", id(2), time())]).unwrap();
    let times = r#""mtime":"2026-11-26T22:00:22.128987569Z","atime":"2026-11-26T22:00:22.128987569Z","ctime":"2026-11-26T22:00:22.128987569Z","uid":0,"gid":0,"user":"root","group":"root""#;
    let expected = format!(
        concat!(
            r#"{{"nodes":[{{"name":"\u003ca\u003e","type":"dir","mode":2147484141,{times},"content":null,"subtree":"{two}"}},"#,
            r#"{{"name":"data","type":"file","mode":420,{times},"size":6,"content":["{one}","{ab}"]}}]}}"#,
            "\n"
        ),
        times = times,
        one = id(1),
        two = id(2),
        ab = id(0xab),
    );
    assert_eq!(String::from_utf8(encode(&tree)).unwrap(), expected);
    assert_eq!(decode(expected.as_bytes()).unwrap(), tree);
    assert_eq!(encode(&Tree::default()), b"{\"nodes\":[]}\n");
    assert_eq!(tree.find("data").map(|node| node.mode), Some(0o644));
    assert_eq!(tree.find("dat"), None);
}

#[test]
fn rare_things_are_written_again_as_they_were() {
    let times = r#""mtime":"2026-11-26T22:00:22+02:00","atime":"0001-01-01T00:00:00Z","ctime":"2026-11-26T22:00:22.1Z","uid":1000,"gid":0"#;
    let zero = id(0);
    let text = format!(
        concat!(
            r#"{{"nodes":[{{"name":"a","type":"chardev","mode":69206416,{times},"device_id":5,"links":1,"device":1281,"content":null}},"#,
            r#"{{"name":"b","type":"symlink",{times},"inode":18446744073709551615,"linktarget":"\u0026\"\\","linktarget_raw":"/w==","extended_attributes":[{{"name":"user.\u003c","value":"AA=="}}],"content":null,"error":"it \u2028 failed"}},"#,
            r#"{{"name":"c","type":"file",{times},"generic_attributes":{{"windows.x": 1.50}},"content":null}},"#,
            r#"{{"name":"d","type":"dir",{times},"size":7,"content":[],"subtree":"{zero}"}}]}}"#,
            "\n"
        ),
        times = times,
        zero = zero,
    );
    let tree = decode(text.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(encode(&tree)).unwrap(), text);
    assert_eq!(tree.nodes[1].kind, NodeKind::Other("symlink".into()));
}

#[test]
fn names_that_could_leave_their_directory_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "/",
        r"a\\x00",
        r"\\x2f",
        r"\\u002f",
        r"\\056\\056",
        r"\\xff",
        r"\\ud800",
        r"\\x4",
        r"\\",
        r"\\q",
        r"\\'",
        r#"\""#,
        r"\n",
        r"\\U00110000",
        r"\\777",
    ] {
        assert!(named(bad).is_err(), "{bad:?}");
    }
    assert!(named(&"é".repeat(128)).is_err());
    assert_eq!(named(&"e".repeat(255)).unwrap().nodes[0].name, "e".repeat(255));
    for (quoted, name) in [
        (r"...", "..."),
        (r"\\a\\b\\f\\n\\r\\t\\v\\\\\\\u0022", "\x07\x08\x0c\n\r\t\x0b\\\""),
        (r"\\xc3\\xa9\\u00e9\\U000000e9\\101", "ééé\u{41}"),
        (r"'\u0026", "'&"),
    ] {
        assert_eq!(named(quoted).unwrap().nodes[0].name, name);
    }
}

#[test]
fn names_are_quoted_as_go_does() {
    for (name, quoted) in [
        ("plain 'name'", "plain 'name'"),
        ("a\"b\\c", r#"a\"b\\c"#),
        ("\u{0}\u{7}\u{8}\u{b}\u{c}\n\r\t\u{1b}\u{7f}", r"\x00\a\b\v\f\n\r\t\x1b\x7f"),
        ("é漢\u{1f600}\u{301}", "é漢\u{1f600}\u{301}"),
        ("\u{301}", "\u{301}"),
        (
            "\u{85}\u{a0}\u{ad}\u{2028}\u{feff}\u{e000}\u{fffd}",
            "\\u0085\\u00a0\\u00ad\\u2028\\ufeff\\ue000\u{fffd}",
        ),
        ("\u{e0001}\u{10ffff}", r"\U000e0001\U0010ffff"),
    ] {
        assert_eq!(name::quote(name), quoted);
        assert_eq!(name::unquote(quoted).as_deref(), Some(name));
    }
}

#[test]
fn what_is_out_of_order_or_twice_there_is_refused() {
    let file = |name: &str| Node::file(name, 0, Vec::new(), time());
    assert!(Tree::new(vec![file("a"), file("a")]).is_err());
    assert!(Tree::new(vec![file("a/b")]).is_err());
    assert!(decode(&encode(&Tree { nodes: vec![file("a"), file("a")] })).is_err());
    let text = String::from_utf8(encode(&Tree::new(vec![file("a"), file("b")]).unwrap())).unwrap();
    assert!(decode(text.replace("\"a\"", "\"c\"").as_bytes()).is_err());
    // Written in order all the same.
    assert_eq!(encode(&Tree { nodes: vec![file("b"), file("a")] }), text.as_bytes());
}

#[test]
fn nodes_that_contradict_themselves_are_refused() {
    let text = String::from_utf8(encode(&Tree { nodes: vec![Node::dir("d", id(1), time())] })).unwrap();
    for (from, to) in [
        ("\"dir\"", "\"socket\""),
        (",\"subtree\":\"01", ",\"other\":\"01"),
        (
            "\"content\":null",
            "\"content\":[\"0101010101010101010101010101010101010101010101010101010101010101\"]",
        ),
        ("\"type\"", "\"kind\""),
        ("\"mtime\"", "\"time\""),
    ] {
        assert!(text.contains(from));
        assert!(decode(text.replacen(from, to, 1).as_bytes()).is_err(), "{from} {to}");
    }
    assert!(decode(b"{\"nodes\":[]} x").is_err());
    assert!(decode(b"{}").is_err());
    assert_eq!(decode(b"{\"nodes\":null}").unwrap(), Tree::default());
}

#[test]
fn blobs_are_found_in_a_tree_of_names_that_are_refused() {
    let nodes = vec![Node::dir("a", id(1), time()), Node::file("b", 2, vec![id(2), id(3)], time())];
    let text = String::from_utf8(encode(&Tree { nodes })).unwrap();
    let text = text.replace("\"a\"", r#""a\\xff/..""#).replace("\"b\"", "\"a\"");
    assert!(decode(text.as_bytes()).is_err());
    let mut found = Vec::new();
    for_each_blob(text.as_bytes(), |kind, id| found.push((kind, id))).unwrap();
    assert_eq!(found, [(BlobKind::Tree, id(1)), (BlobKind::Data, id(2)), (BlobKind::Data, id(3))]);
    for bad in ["", "{}", "[]", "{\"nodes\":{}}", "{\"nodes\":[{\"content\":[\"1\"]}]}", "{\"nodes\":[]}{"] {
        assert!(for_each_blob(bad.as_bytes(), |_, _| ()).is_err(), "{bad}");
    }
}

#[test]
fn a_list_of_values_is_neither_a_tree_nor_a_node() {
    let file = String::from_utf8(encode(&Tree { nodes: vec![Node::file("a", 0, vec![], time())] })).unwrap();
    assert!(decode(file.as_bytes()).is_ok());
    let node = file.strip_prefix("{\"nodes\":[").and_then(|rest| rest.strip_suffix("]}\n")).unwrap();
    let time = time();
    let listed = format!(
        r#"["a","file",0,"{time}","{time}","{time}",0,0,"","",0,0,0,0,"","",null,null,0,[],null,""]"#
    );
    for list in [format!("[[{node}]]"), format!(r#"{{"nodes":[{listed}]}}"#)] {
        assert!(decode(list.as_bytes()).is_err(), "{list}");
    }
}

fn node() -> impl Strategy<Value = Node> {
    let name = any::<String>().prop_filter("a name", |name| name::check(name).is_ok());
    let content = prop::collection::vec(any::<[u8; 32]>().prop_map(BlobId), 0..5);
    (name, content, any::<u64>(), 0..3, any::<i64>(), any::<u32>()).prop_map(
        |(name, content, size, kind, time, uid)| {
            let time = Timestamp::from_unix_nanoseconds(time);
            let mut node = match (kind, content.first()) {
                (0, Some(subtree)) => Node::dir(&name, *subtree, time),
                (1, Some(_)) => {
                    Node { kind: NodeKind::Other("fifo".into()), ..Node::dir(&name, id(1), time) }
                }
                _ => Node::file(&name, size, content, time),
            };
            node.uid = uid;
            node.user = name;
            node.inode = size;
            node
        },
    )
}

proptest! {
    #[test]
    fn a_tree_comes_back(nodes in prop::collection::btree_map(any::<u8>(), node(), 0..5)) {
        let Ok(tree) = Tree::new(nodes.into_values().collect()) else { return Ok(()) };
        prop_assert_eq!(decode(&encode(&tree)).unwrap(), tree);
    }

    #[test]
    fn a_name_comes_back(name: String) {
        prop_assert_eq!(name::unquote(&name::quote(&name)), Some(name));
    }

    #[test]
    fn a_damaged_tree_is_read_or_refused_without_a_panic(node in node(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut text = encode(&Tree { nodes: vec![node] });
        let at = at.index(text.len());
        text[at] = byte;
        let _ = for_each_blob(&text, |_, _| ());
        if let Ok(tree) = decode(&text) {
            prop_assert_eq!(decode(&encode(&tree)).unwrap(), tree);
        }
    }

    #[test]
    fn rubbish_is_no_name(text in "[\\\\abuUx0-9\"é ]{0,12}") {
        if let Some(name) = name::unquote(&text) {
            prop_assert_eq!(name::unquote(&name::quote(&name)), Some(name));
        }
    }
}
