//! As much of Rust's grammar as the rules need: what is code and what is comment or literal, which lines are tests, and
//! the tokens of paths. Not a parser; it is right for code that compiles.

use super::repo::Text;

/// `text` with every comment, string and character blanked out; lines and columns stay where they were.
pub(super) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let blank = comment_chars(rest).or_else(|| literal_chars(rest));
        let (count, is_code) = blank.map_or_else(|| (plain_chars(rest), true), |count| (count, false));
        code.extend(rest[..count].iter().map(|&c| if is_code || c == '\n' { c } else { ' ' }));
        at += count;
    }
    code
}

/// Length of the identifier or number at the start, or 1: the next literal is looked for behind it, not inside.
fn plain_chars(rest: &[char]) -> usize {
    rest.iter().take_while(|&&c| is_word(c)).count().max(1)
}

fn comment_chars(rest: &[char]) -> Option<usize> {
    match rest {
        ['/', '/', ..] => Some(rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => Some(block_comment_chars(rest)),
        _ => None,
    }
}

fn block_comment_chars(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn literal_chars(rest: &[char]) -> Option<usize> {
    match rest {
        ['"', ..] => Some(quoted_chars(rest, '"')),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => Some(quoted_chars(rest, '\'')),
        ['b' | 'c', '"', ..] => Some(1 + quoted_chars(&rest[1..], '"')),
        ['b', '\'', ..] => Some(1 + quoted_chars(&rest[1..], '\'')),
        ['r', ..] => raw_chars(&rest[1..]).map(|count| 1 + count),
        ['b' | 'c', 'r', ..] => raw_chars(&rest[2..]).map(|count| 2 + count),
        _ => None,
    }
}

/// Length of a literal in quotes with escapes.
fn quoted_chars(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of a raw string behind its `r`, or nothing if that was only a letter.
fn raw_chars(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return None;
    }
    let body = &rest[hashes + 1..];
    let closes = |at: &usize| body[*at] == '"' && body[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    let end = (0..body.len()).find(closes).map_or(body.len(), |at| at + 1 + hashes);
    Some(hashes + 1 + end)
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// For each line of `code` (see [`code_only`]) whether only test builds see it.
pub(super) fn test_lines(file: &Text, code: &str) -> Vec<bool> {
    let lines = code.lines().count();
    if is_test_file(&file.path) || code.contains("#![cfg(test)]") {
        return vec![true; lines];
    }
    let mut tests = vec![false; lines];
    for mark in ["#[cfg(test)]", "#[cfg(all(test,", "#[test]"] {
        for (at, _) in code.match_indices(mark) {
            let behind = at + code[at..].find(']').map_or(mark.len(), |end| end + 1);
            let (first, last) = (line_at(code, at), line_at(code, behind + item_bytes(&code[behind..])));
            tests.iter_mut().take(last).skip(first - 1).for_each(|test| *test = true);
        }
    }
    tests
}

fn is_test_file(path: &str) -> bool {
    let names = ["/tests.rs", "_tests.rs", "/models.rs", "_models.rs"];
    names.iter().any(|name| path.ends_with(name)) || path.contains("/tests/") || path.contains("/benches/")
}

/// Length of the item at the start, attributes included: up to its `;` or the brace that closes it.
fn item_bytes(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth < 0 || depth == 0 && matches!(c, ';' | '}') {
            return at;
        }
    }
    code.len()
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

/// A word, `::`, or any other single character of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    pub(super) line: usize,
}

/// The tokens of `code` (see [`code_only`]), without white space.
pub(super) fn tokens(code: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut line, mut rest) = (Vec::new(), 1, code);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let bytes = if rest.starts_with("::") { 2 } else { word.max(first.len_utf8()) };
        let (text, behind) = rest.split_at(bytes);
        if !first.is_whitespace() {
            tokens.push(Token { text, line });
        }
        line += usize::from(first == '\n');
        rest = behind;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of_tests(path: &str, code: &str) -> Vec<bool> {
        test_lines(&Text { path: path.to_owned(), text: code.to_owned() }, code)
    }

    #[test]
    fn comments_and_literals_become_blank() {
        assert_eq!(code_only("a // b\nc"), "a     \nc");
        assert_eq!(code_only("a /* b /* c */ d */ e"), "a                   e");
        assert_eq!(code_only(r#"f("a\"b", 1)"#), "f(      , 1)");
        assert_eq!(code_only("f('\"', '\\'', b'x')"), "f(   ,     ,     )");
        assert_eq!(code_only("r#\"a\"b\"# + br\"x\" + c"), "         +       + c");
        assert_eq!(code_only("\"a\nb\" c"), "  \n   c");
    }

    #[test]
    fn lifetimes_labels_and_raw_words_are_code() {
        for code in ["fn f<'a>(x: &'a str)", "'outer: loop {}", "r#type + bar + rb", "for r in b {}"] {
            assert_eq!(code_only(code), code);
        }
    }

    #[test]
    fn the_test_module_and_single_items_are_tests() {
        let code =
            "fn a() {}\n#[cfg(test)]\nuse b::{c, d};\nfn e() {}\n#[cfg(test)]\nmod tests {\n  fn f() {}\n}\nfn g() {}";
        let expected = [false, true, true, false, true, true, true, true, false];
        assert_eq!(lines_of_tests("crates/a/src/b.rs", code), expected);
    }

    #[test]
    fn attributes_between_belong_to_the_item() {
        let code = "#[cfg(all(test, unix))]\n#[allow(x)]\nfn a() -> [u8; 2] {\n}\nfn b() {}";
        assert_eq!(lines_of_tests("crates/a/src/b.rs", code), [true, true, true, true, false]);
    }

    #[test]
    fn files_of_tests_are_tests() {
        assert_eq!(lines_of_tests("crates/a/src/b/tests.rs", "fn a() {}"), [true]);
        assert_eq!(lines_of_tests("crates/a/tests/c.rs", "fn a() {}"), [true]);
    }

    #[test]
    fn tokens_carry_their_line() {
        let tokens = tokens("use a::b;\n x");
        let texts: Vec<&str> = tokens.iter().map(|token| token.text).collect();
        assert_eq!(texts, ["use", "a", "::", "b", ";", "x"]);
        assert_eq!(tokens[5].line, 2);
    }
}
