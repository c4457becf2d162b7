//! Texts for users are plain English: short sentences that begin with their subject.
//!
//! [`problems`] checks one text. The tests apply it to every Markdown page of the project, the
//! manual page, the help of options and metrics, the description of the API, and the strings in the
//! source. A failure names the place, the rule and the sentence.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::CommandFactory;
use multipath_exporter::cli::Cli;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

const MOST_WORDS: usize = 25;

/// Words that begin an inverted sentence.
const FIRST_WORDS: [&str; 7] = ["Lest", "Of", "That", "What", "Who", "Whoever", "Whose"];

/// A period after these ends no sentence.
const ABBREVIATIONS: [&str; 5] = ["cf.", "e.g.", "etc.", "i.e.", "vs."];

/// Names that keep their small first letter at the beginning of a sentence, as identifiers with `_` do.
const SMALL_NAMES: [&str; 7] =
    ["kube-prometheus", "multipath-tools", "multipathd", "oVirt", "sysfs", "systemd", "udev"];

/// Stands for a space within a code span, which counts as one word.
const SPACE_IN_CODE: char = '\u{a0}';

/// A text without markup: a paragraph, a heading, an item of a list, a cell of a table, a message.
#[derive(Default)]
struct Text {
    place: String,
    /// Headings may ask: "What now?".
    is_heading: bool,
    /// Messages begin with a small letter, so the case of their first word says nothing.
    is_message: bool,
    content: String,
    /// Where in `content` each line of the file begins.
    lines: Vec<(usize, usize)>,
}

impl Text {
    fn push(&mut self, line: usize, text: &str) {
        self.lines.push((self.content.len(), line));
        self.content.push_str(text);
    }

    fn line_of(&self, position: usize) -> usize {
        self.lines.iter().take_while(|(start, _)| *start <= position).last().map_or(0, |(_, line)| *line)
    }
}

#[derive(Debug, PartialEq)]
enum Rule {
    FirstWord,
    Length(usize),
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstWord => write!(formatter, "a sentence does not begin with any of {}", FIRST_WORDS.join(", ")),
            Self::Length(words) => write!(formatter, "a sentence has at most {MOST_WORDS} words, not {words}"),
        }
    }
}

struct Problem {
    place: String,
    /// 0 if the place has no lines.
    line: usize,
    rule: Rule,
    sentence: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, line, rule, sentence } = self;
        let sentence = sentence.replace(SPACE_IN_CODE, " ");
        match line {
            0 => write!(formatter, "{place}: {rule}: {sentence}"),
            line => write!(formatter, "{place}:{line}: {rule}: {sentence}"),
        }
    }
}

/// The sentences of a text, with their positions in it.
fn sentences(content: &str) -> Vec<(usize, &str)> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (space, _) in content.match_indices([' ', '\n']) {
        let is_end = &content[space..=space] == "\n" || ends_sentence(&content[start..space], &content[space + 1..]);
        if is_end {
            sentences.push((start, &content[start..space]));
            start = space + 1;
        }
    }
    sentences.push((start, &content[start..]));
    let trimmed = sentences.into_iter().map(|(at, sentence)| {
        let shorter = sentence.trim_start_matches(' ');
        (at + sentence.len() - shorter.len(), shorter.trim_end())
    });
    trimmed.filter(|(_, sentence)| !sentence.is_empty()).collect()
}

fn ends_sentence(before: &str, after: &str) -> bool {
    let word = before.rsplit(' ').next().unwrap_or_default();
    let is_closed = word.trim_end_matches([')', ']', '"', '”', '’', '`', '*']).ends_with(['.', '?', '!']);
    let next = after.trim_start_matches([' ', '(', '"', '“']);
    let is_name = next.split(' ').next().is_some_and(|word| word.contains('_'))
        || SMALL_NAMES.iter().any(|name| next.starts_with(name));
    let is_begun = is_name || !next.starts_with(char::is_lowercase);
    is_closed && is_begun && !ABBREVIATIONS.contains(&word.trim_start_matches(['(', '"']))
}

fn words(sentence: &str) -> usize {
    sentence.split(' ').filter(|word| word.contains(|letter: char| letter.is_alphanumeric() || letter == '{')).count()
}

fn problems(text: &Text) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (position, sentence) in sentences(&text.content) {
        let mut add = |rule| {
            let (place, line) = (text.place.clone(), text.line_of(position));
            problems.push(Problem { place, line, rule, sentence: sentence.to_owned() });
        };
        let first =
            sentence.trim_start_matches(|letter: char| !letter.is_alphanumeric() && letter != '`' && letter != '{');
        let first = first.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default();
        let is_inverted =
            |wrong: &&str| if text.is_message { wrong.eq_ignore_ascii_case(first) } else { *wrong == first };
        let is_question = text.is_heading && sentence.ends_with('?');
        if FIRST_WORDS.iter().any(is_inverted) && !is_question {
            add(Rule::FirstWord);
        }
        let words = words(sentence);
        if words > MOST_WORDS {
            add(Rule::Length(words));
        }
    }
    problems
}

fn assert_plain(texts: &[Text]) {
    assert!(!texts.is_empty(), "no text was found");
    let problems: Vec<String> = texts.iter().flat_map(problems).map(|problem| problem.to_string()).collect();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// The prose of a Markdown page.
fn prose(place: &str, page: &str) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut text = Text::default();
    // Lines are counted on from the last event.
    let (mut line, mut counted) = (1, 0);
    // Within a code block, or the description of a picture.
    let mut skipped = 0;
    for (event, range) in Parser::new_ext(page, Options::ENABLE_TABLES).into_offset_iter() {
        if range.start > counted {
            line += page[counted..range.start].matches('\n').count();
            counted = range.start;
        }
        let mut finish = |text: &mut Text, is_heading| {
            texts.push(Text { place: place.to_owned(), is_heading, ..std::mem::take(text) });
        };
        match event {
            Event::Start(Tag::CodeBlock(_) | Tag::Image { .. }) => skipped += 1,
            Event::End(TagEnd::CodeBlock | TagEnd::Image) => skipped -= 1,
            Event::End(TagEnd::Heading(_)) => finish(&mut text, true),
            // Text of an item may stand without a paragraph around it, and before another list.
            Event::Start(Tag::Item | Tag::List(_))
            | Event::End(TagEnd::Item | TagEnd::Paragraph | TagEnd::TableCell) => {
                finish(&mut text, false);
            }
            _ if skipped > 0 => {}
            Event::Text(words) => text.push(line, &words),
            Event::Code(code) => text.push(line, &format!("`{}`", code.replace(' ', &SPACE_IN_CODE.to_string()))),
            Event::SoftBreak => text.push(line, " "),
            Event::HardBreak => text.push(line, "\n"),
            _ => {}
        }
    }
    texts.retain(|text| !text.content.trim().is_empty());
    texts
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown page of the project.
pub fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    let mut directories: Vec<PathBuf> =
        ["alerts", "dashboards", "deploy", "docs", "tests/fixtures"].iter().map(|name| root().join(name)).collect();
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut files: Vec<PathBuf> = top.collect();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    for file in files {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        pages.push((name, fs::read_to_string(&file).unwrap()));
    }
    pages
}

#[test]
fn pages_are_plain() {
    let pages = pages();
    assert!(pages.iter().any(|(name, _)| name == "README.md"));
    assert_plain(&pages.iter().flat_map(|(name, page)| prose(name, page)).collect::<Vec<_>>());
}

fn message(place: &str, line: usize, content: &str) -> Text {
    let mut text = Text { place: place.to_owned(), is_message: true, ..Text::default() };
    text.push(line, content);
    text
}

#[test]
fn the_help_of_options_is_plain() {
    let command = Cli::command();
    let about = [command.get_about(), command.get_long_about()].into_iter().flatten();
    let mut texts: Vec<Text> = about.map(|about| message("--help, about", 0, &about.to_string())).collect();
    for option in command.get_arguments() {
        let place = format!("--help, --{}", option.get_long().unwrap());
        let help = [option.get_help(), option.get_long_help()].into_iter().flatten();
        texts.extend(help.map(|help| message(&place, 0, &help.to_string())));
        for value in option.get_possible_values() {
            texts.extend(value.get_help().map(|help| message(&place, 0, &help.to_string())));
        }
    }
    assert!(texts.len() > 30);
    assert_plain(&texts);
}

#[test]
fn the_help_of_metrics_is_plain() {
    let file = "tests/golden/metrics.txt";
    let page = fs::read_to_string(root().join(file)).unwrap();
    let helps = page.lines().enumerate().filter_map(|(index, line)| {
        let (_, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
        Some(message(file, index + 1, help))
    });
    assert_plain(&helps.collect::<Vec<_>>());
}

/// The texts of the manual page: between two lines that are requests to roff, without changes of
/// the font. The line after `.TP` is a term, and the text of that term follows.
fn manual(place: &str, page: &str) -> Vec<Text> {
    let mut texts = vec![Text::default()];
    let mut is_term = false;
    for (index, line) in page.lines().enumerate() {
        if line.starts_with('.') {
            is_term = line == ".TP";
            texts.push(Text::default());
            continue;
        }
        let mut line = line.replace("\\-", "-").replace("\\*(Aq", "'");
        for font in ["\\fB", "\\fI", "\\fR"] {
            line = line.replace(font, "");
        }
        let text = texts.last_mut().unwrap();
        text.place = place.to_owned();
        text.push(index + 1, &line);
        text.content.push(' ');
        if std::mem::take(&mut is_term) {
            texts.push(Text::default());
        }
    }
    texts.retain(|text| !text.content.is_empty());
    texts
}

#[test]
fn the_manual_page_is_plain() {
    let file = "deploy/man/sections.roff";
    assert_plain(&manual(file, &fs::read_to_string(root().join(file)).unwrap()));
}

/// The values of these keys, at any depth.
fn descriptions(place: &str, value: &serde_json::Value, texts: &mut Vec<Text>) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                match value.as_str().filter(|_| ["description", "summary"].contains(&key.as_str())) {
                    Some(text) => texts.push(message(place, 0, text.trim_end())),
                    None => descriptions(&format!("{place}, {key}"), value, texts),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| descriptions(place, value, texts)),
        _ => {}
    }
}

#[test]
fn the_description_of_the_api_is_plain() {
    let file = "src/web/openapi.yaml";
    let document = serde_saphyr::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap();
    let mut texts = Vec::new();
    descriptions(file, &document, &mut texts);
    assert!(texts.len() > 50);
    assert_plain(&texts);
}

/// String literals of the program: all that stand in its source, but for its tests.
#[derive(Default)]
struct Source {
    texts: Vec<Text>,
}

impl Source {
    fn file(&mut self, file: &Path) {
        let text = fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap();
        let stream = TokenStream::from_str(&text).unwrap();
        let directory = match file.file_name().and_then(|name| name.to_str()) {
            Some("lib.rs" | "main.rs" | "mod.rs") => file.parent().unwrap().to_owned(),
            _ => file.with_extension(""),
        };
        for module in self.tokens(name, stream, false) {
            let files = [directory.join(format!("{module}.rs")), directory.join(format!("{module}/mod.rs"))];
            self.file(files.iter().find(|file| file.exists()).unwrap());
        }
    }

    /// Adds the strings of this stream. Returns the modules that it declares in files of their own.
    fn tokens(&mut self, place: &str, stream: TokenStream, is_message: bool) -> Vec<String> {
        let mut modules = Vec::new();
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    // `#[…]`, or `#![…]` of the file.
                    if let Some(TokenTree::Punct(_)) = tokens.get(at + 1) {
                        at += 1;
                    }
                    at += 1;
                    let Some(TokenTree::Group(attribute)) = tokens.get(at) else { continue };
                    let text = attribute.stream().to_string().replace(' ', "");
                    if text == "cfg(test)" {
                        at += tokens[at..].iter().position(is_end_of_item).unwrap();
                    } else if text.starts_with("error(") {
                        self.tokens(place, attribute.stream(), true);
                    }
                }
                TokenTree::Group(group) => {
                    let is_message = is_message || is_for_users(&tokens[..at]);
                    modules.extend(self.tokens(place, group.stream(), is_message));
                }
                TokenTree::Literal(literal) => {
                    if let syn::Lit::Str(string) = syn::Lit::new(literal.clone()) {
                        let mut text = message(place, literal.span().start().line, &string.value());
                        text.is_message = is_message;
                        self.texts.push(text);
                    }
                }
                TokenTree::Ident(word) if word == "mod" => {
                    if let [TokenTree::Ident(name), TokenTree::Punct(punct), ..] = &tokens[at + 1..]
                        && punct.as_char() == ';'
                    {
                        modules.push(name.to_string());
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
            at += 1;
        }
        modules
    }
}

fn is_end_of_item(token: &TokenTree) -> bool {
    match token {
        TokenTree::Punct(punct) => punct.as_char() == ';',
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        _ => false,
    }
}

/// The arguments that follow are those of a log message or an error: `warn!(…)`, `Err(…)`,
/// `Error::new(…)`.
fn is_for_users(before: &[TokenTree]) -> bool {
    let path = before.iter().rev().map_while(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        TokenTree::Punct(punct) if [':', '!'].contains(&punct.as_char()) => Some(punct.to_string()),
        _ => None,
    });
    let path: Vec<String> = path.collect();
    matches!(
        path.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ["!", "debug" | "error" | "info" | "trace" | "warn", ..] | ["Err", ..] | [_, ":", ":", "Error" | "Failure", ..]
    )
}

fn source() -> Vec<Text> {
    let mut source = Source::default();
    source.file(&root().join("src/lib.rs"));
    source.file(&root().join("src/main.rs"));
    // Markup of the status page: the text between two tags is a text of its own.
    let markup = regex::Regex::new("<[^<>]*>").unwrap();
    for text in &mut source.texts {
        text.content = markup.replace_all(&text.content, "\n").into_owned();
    }
    // A list of words, which the program splits.
    let is_list = |text: &Text| text.content.chars().all(|letter| letter.is_ascii_lowercase() || letter == ' ');
    source.texts.retain(|text| text.is_message || !is_list(text));
    source.texts
}

#[test]
fn messages_are_plain() {
    let texts = source();
    let messages = texts.iter().filter(|text| text.is_message);
    assert!(messages.count() > 150);
    assert_plain(&texts);
}

fn rules(page: &str) -> Vec<(usize, Rule)> {
    let texts = prose("a page", page);
    texts.iter().flat_map(problems).map(|problem| (problem.line, problem.rule)).collect()
}

fn sentence_of(words: usize) -> String {
    format!("Paths {}fail.", "often ".repeat(words - 2))
}

#[test]
fn each_first_word_is_found() {
    for word in FIRST_WORDS {
        assert_eq!(rules(&format!("A path fails.\n{word} is asked waits.")), [(2, Rule::FirstWord)], "{word}");
        assert_eq!(rules(&format!("# {word} is asked waits")), [(1, Rule::FirstWord)], "{word}");
        assert_eq!(rules(&format!("- **{word}** is asked waits.")), [(1, Rule::FirstWord)], "{word}");
        assert_eq!(rules(&format!("# {word} comes next?")), [], "{word}");
        let message = message("a message", 1, &format!("{} is asked waits", word.to_lowercase()));
        assert_eq!(problems(&message).len(), 1, "{word}");
    }
    assert_eq!(rules("Offers of paths. Whatever fails is shown. The path that fails: what it was."), []);
}

#[test]
fn a_long_sentence_is_found() {
    let (longest, too_long) = (sentence_of(MOST_WORDS), sentence_of(MOST_WORDS + 1));
    assert_eq!(rules(&longest), []);
    let wrong = Rule::Length(MOST_WORDS + 1);
    for page in [too_long.clone(), format!("# {too_long}"), format!("- {too_long}"), format!("> {too_long}")] {
        assert_eq!(rules(&page), [(1, Rule::Length(MOST_WORDS + 1))], "{page}");
    }
    assert_eq!(rules(&format!("| a | b |\n|---|---|\n| c | {too_long} |")), [(3, wrong)]);
    assert_eq!(rules(&format!("{longest} {longest}\n\n{longest}\n{too_long}")), [(4, Rule::Length(MOST_WORDS + 1))]);
}

#[test]
fn markup_is_no_sentence() {
    let code = "word ".repeat(MOST_WORDS + 1);
    assert_eq!(rules(&format!("```\nWhat {code}\n```\n\n![What {code}](a.png)\n\n<!-- What {code} -->")), []);
    assert_eq!(rules(&format!("The command `{code}` and [a link](https://example.org/a) are a word each.")), []);
    // Items of a list and cells of a table are texts of their own.
    let half = "word ".repeat(MOST_WORDS - 5);
    assert_eq!(rules(&format!("- {half}\n- {half}\n  - {half}\n- {half}")), []);
    assert_eq!(rules(&format!("| {half} | {half} |\n|---|---|\n| {half} | {half} |")), []);
    let two = format!("A daemon {half}fails. multipathd {half}fails.");
    assert_eq!(rules(&two), []);
    // A period within a word, or after an abbreviation, ends no sentence.
    let sentences = rules(&format!("Version 2.42, e.g. Debian's, {half} and more words, and more words."));
    assert_eq!(sentences, [(1, Rule::Length(MOST_WORDS + 5))]);
}

#[test]
fn strings_of_the_source_are_found() {
    let code = r##"
        #[error("what {0} failed")]
        fn f() { warn!(%error, "who asks\twaits"); return Err(format!("of {n} none")); Error::new(a, "that fails") }
        fn g() { label("of {n}"); print(r#"Of "one" map"#); }
        #[cfg(test)]
        mod tests { fn h() { warn!("Of no interest") } }
        mod other;
    "##;
    let mut source = Source::default();
    let modules = source.tokens("a file", TokenStream::from_str(code).unwrap(), false);
    assert_eq!(modules, ["other"]);
    let problems: Vec<String> = source.texts.iter().flat_map(problems).map(|problem| problem.to_string()).collect();
    let found: Vec<&str> = problems.iter().map(|problem| problem.rsplit(": ").next().unwrap()).collect();
    assert_eq!(found, ["what {0} failed", "who asks\twaits", "of {n} none", "that fails", "Of \"one\" map"]);
    assert!(problems[0].starts_with("a file:2: "), "{}", problems[0]);
}

#[test]
fn texts_of_the_manual_page_are_found() {
    let page = format!(".SH \"A\"\n\\fBWhat\\fR it is.\n.TP\n\\fI/etc/a\\-b\\fR\n{}\n", sentence_of(MOST_WORDS + 1));
    let problems: Vec<Problem> = manual("a page", &page).iter().flat_map(problems).collect();
    let found: Vec<_> = problems.iter().map(|problem| (problem.line, &problem.rule)).collect();
    assert_eq!(found, [(2, &Rule::FirstWord), (5, &Rule::Length(MOST_WORDS + 1))]);
    assert!(problems[1].sentence.starts_with("Paths often "), "{}", problems[1].sentence);
}

#[test]
fn descriptions_of_the_api_are_found() {
    let document =
        serde_json::json!({"info": {"summary": "A path", "title": "What"}, "a": [{"description": "what it is\n"}]});
    let mut texts = Vec::new();
    descriptions("a file", &document, &mut texts);
    let problems: Vec<String> = texts.iter().flat_map(problems).map(|problem| problem.to_string()).collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("a file, a: ") && problems[0].ends_with(": what it is"), "{}", problems[0]);
}
