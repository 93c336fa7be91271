//! What an expression must not be before Lance reads it.
//!
//! Lance parses and plans by recursion without bound, so that an expression of some thousand terms
//! ends the process; it panics on parts of SQL that it does not know; and some functions make
//! gigabytes from a few letters. The text is cut into words as Lance does it, so that nothing can
//! hide in what one takes for a quotation and the other does not.

use std::any::TypeId;

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::{failure, readers};
use crate::error::{Error, Result};

/// Room for an IN list of some hundred thousand numbers.
const MAX_BYTES: usize = 1 << 20;
/// How many operators there may be, and how many arguments outside of IN lists.
const MAX_OPERATORS: usize = 1_000;
/// How many operators may build on each other, as in `1 + 1 + 1`: planning takes time by the cube
/// of that number. Those that AND, OR or a comma separate do not build on each other.
const MAX_CHAIN: usize = 100;
/// How deep parentheses, brackets and CASE may nest.
const MAX_NESTING: usize = 32;
/// How many of what the planner writes twice may nest: each doubles the work.
const MAX_DOUBLINGS: usize = 4;
/// How many words the parser may read, where it reads all that follows a keyword again as if it
/// were a column's name.
const MAX_READINGS: usize = 1 << 21;
/// How many times longer than a row's own text the text that is made from it may be.
const MAX_GROWTH: usize = 64;
/// How much text there may be where more text is made of it, for each of some thousand rows.
const MAX_MADE_OF_BYTES: usize = 16 << 10;
/// How many brackets a text may open that is parsed again, as JSON or as the name of a type.
const MAX_BRACKETS_IN_TEXT: usize = 256;

pub(super) const NO_AGGREGATES: &str = "aggregate and window functions are not served";

/// How many digits Lance has room for; it panics beyond.
const MAX_DECIMAL_DIGITS: u8 = 38;

/// Functions that make as much as a number asks for.
const UNBOUNDED: [&str; 12] = [
    "array_repeat",
    "array_resize",
    "gen_series",
    "generate_series",
    "list_repeat",
    "list_resize",
    "lpad",
    "range",
    "repeat",
    "replicate",
    "rpad",
    "space",
];
/// Functions whose result, or whose work, is the product of the lengths of their arguments.
const MULTIPLYING: [&str; 9] = [
    "array_join",
    "array_to_string",
    "concat_ws",
    "encode",
    "levenshtein",
    "list_join",
    "list_to_string",
    "regexp_replace",
    "replace",
];
/// Those whose third argument stands in the place of each match.
const REPLACING: [&str; 2] = ["regexp_replace", "replace"];
/// Functions whose result is as long as all of their arguments together.
const JOINING: [&str; 19] = [
    "array_append",
    "array_cat",
    "array_concat",
    "array_prepend",
    "array_push_back",
    "array_push_front",
    "concat",
    "concat_ws",
    "list_append",
    "list_cat",
    "list_concat",
    "list_prepend",
    "list_push_back",
    "list_push_front",
    "make_array",
    "make_list",
    "map",
    "named_struct",
    "struct",
];
/// Functions that the planner turns into a CASE that names their arguments twice.
const DOUBLING: [&str; 4] = ["coalesce", "ifnull", "nvl", "nvl2"];

/// What an expression costs, or several of one request.
#[derive(Default, Clone, Copy)]
struct Cost {
    bytes: usize,
    operators: usize,
    /// The words that the parser reads, with those that it reads again.
    readings: usize,
    growth: usize,
}

/// # Errors
/// `InvalidInput` for an expression that this server does not give to Lance.
pub(super) fn check(text: &str) -> Result<()> {
    cost(text).map(drop)
}

/// Checks the expressions of one request: together they cost no more than one may.
///
/// # Errors
/// `InvalidInput`, as [`check`].
pub(super) fn check_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut all = Cost::default();
    for text in texts {
        let one = cost(text)?;
        all.bytes += one.bytes;
        all.operators += one.operators;
        all.readings += one.readings;
        // An expression that makes nothing longer adds nothing.
        all.growth += one.growth - 1;
        for (sum, most, what) in [
            (all.bytes, MAX_BYTES, "bytes"),
            (all.operators, MAX_OPERATORS, "operators and arguments"),
            (all.readings, MAX_READINGS, "words, with those that are read again"),
            (all.growth, MAX_GROWTH, "times the text of a row, in what their functions make"),
        ] {
            if sum > most {
                return Err(Error::invalid_input(format!(
                    "the expressions of the request have together more than {most} {what}: send \
                     several requests"
                )));
            }
        }
    }
    Ok(())
}

fn cost(text: &str) -> Result<Cost> {
    readers::takes_expression();
    if text.len() > MAX_BYTES {
        return Err(Error::invalid_input(format!(
            "the expression has {} bytes: no more than {MAX_BYTES} are read",
            text.len()
        )));
    }
    let mut placed = Tokenizer::new(&LanceDialect, text)
        .tokenize_with_location()
        .map_err(|error| Error::invalid_input(format!("the expression cannot be read: {error}")))?;
    placed.retain(|placed| !matches!(placed.token, Token::Whitespace(_)));
    let tokens: Vec<Token> = placed.iter().map(|placed| placed.token.clone()).collect();
    if tokens.windows(3).any(is_wide_decimal) {
        return Err(Error::invalid_input(format!(
            "a decimal has no more than {MAX_DECIMAL_DIGITS} digits"
        )));
    }
    if tokens.windows(3).any(is_empty_is_valid) {
        return Err(Error::invalid_input("the function 'is_valid' needs an argument"));
    }
    let mut check = Check::default();
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| tokens.get(at));
        check.token(before, token, tokens.get(at + 1))?;
    }
    check.finish()?;
    if (0..tokens.len()).any(|at| compares_columns(&tokens[at..])) {
        return Err(Error::invalid_input(
            "one of the arguments of levenshtein must be a text, not a column: two long values \
             would take minutes to compare",
        ));
    }
    parse(placed)?;
    Ok(Cost {
        bytes: text.len(),
        operators: check.operators,
        readings: check.readings().unwrap_or(usize::MAX),
        growth: check.growth().unwrap_or(usize::MAX),
    })
}

/// Lance reads as much as is an expression and leaves out the rest without a word. Where something
/// is wrong, it tells the place in a text of its own.
fn parse(mut tokens: Vec<TokenWithSpan>) -> Result<()> {
    // As Lance does it, so that `==` is `=`.
    tokens.dedup_by(|second, first| second.token == Token::Eq && first.token == Token::Eq);
    let mut parser = Parser::new(&LanceDialect).with_tokens_with_locations(tokens);
    let wrong = |text: String| {
        Error::invalid_input(format!("the expression cannot be read: {}", failure::shortened(text)))
    };
    parser.parse_expr().map_err(|error| wrong(error.to_string()))?;
    let next = parser.peek_token();
    match next.token {
        Token::EOF => Ok(()),
        token => Err(wrong(format!(
            "it ends before '{token}'{}, which does not belong to it",
            next.span.start
        ))),
    }
}

/// The dialect of Lance's planner, which does not show it: see its `sql.rs`.
#[derive(Debug)]
struct LanceDialect;

impl Dialect for LanceDialect {
    fn dialect(&self) -> TypeId {
        GenericDialect.dialect()
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        GenericDialect.is_identifier_part(ch)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`'
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        GenericDialect.supports_bitwise_shift_operators()
    }
}

/// What has been seen so far.
#[derive(Default)]
struct Check {
    /// The groups that are open, the outermost first; the whole expression is not among them.
    open: Vec<Group>,
    whole: Term,
    words: usize,
    operators: usize,
    /// The outermost call, of those that are open, whose result is longer than its arguments.
    growing: Option<Growing>,
    /// The most that such a call makes of the text of a row.
    most_growth: usize,
    /// The bytes of texts outside of IN lists.
    text_bytes: usize,
    /// Whether a text may have to be there once for each row.
    makes_text: bool,
    /// Whether a text may be parsed again, and whether one of them must not be.
    parses_text: bool,
    has_bad_text: bool,
}

/// A parenthesis, a bracket or a CASE that is not closed yet.
struct Group {
    end: End,
    /// The commas of an IN list are free: Lance reads the list flat, and lists are long.
    is_in_list: bool,
    /// The function whose arguments these are.
    call: Call,
    commas: usize,
    term: Term,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Other,
    /// The result is as long as all arguments together.
    Joining,
    /// The result is as long as the product of the arguments.
    Multiplying,
    /// The same, but only the third argument multiplies.
    Replacing,
    /// The product, and of any number of arguments.
    Both,
}

impl Call {
    fn of(before: Option<&Token>) -> Self {
        let Some(Token::Word(word)) = before else { return Self::Other };
        let name = word.value.to_lowercase();
        let name = name.as_str();
        match (MULTIPLYING.contains(&name), JOINING.contains(&name)) {
            (true, true) => Self::Both,
            (true, false) if REPLACING.contains(&name) => Self::Replacing,
            (true, false) => Self::Multiplying,
            (false, true) => Self::Joining,
            (false, false) => Self::Other,
        }
    }

    fn multiplies(self) -> bool {
        matches!(self, Self::Multiplying | Self::Replacing | Self::Both)
    }

    fn joins(self) -> bool {
        matches!(self, Self::Joining | Self::Both)
    }
}

/// A call that makes long text from short, with all that is in it.
struct Growing {
    /// How many groups are open around it.
    depth: usize,
    multiplying: u32,
    joining: usize,
    text_bytes: usize,
    columns: usize,
}

impl Growing {
    /// How many times longer the result can be than the text of a row.
    fn growth(&self) -> usize {
        let columns = if self.joining > 0 { self.columns.max(1) } else { 1 };
        let times = (self.text_bytes + 1).checked_pow(self.multiplying);
        times.and_then(|times| times.checked_mul(columns)).unwrap_or(usize::MAX)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Parenthesis,
    Bracket,
    Case,
}

/// Counts what builds on each other. The terms that AND, OR and commas separate do not.
#[derive(Default)]
struct Term {
    now: Weight,
    /// The most of all terms up to here.
    most: Weight,
    /// How many BETWEEN still wait for their AND.
    betweens: usize,
}

#[derive(Default, Clone, Copy)]
struct Weight {
    operators: usize,
    /// How often the planner writes something twice.
    doublings: usize,
    /// How often the parser may have to read again what follows.
    readings: usize,
    /// How many texts or lists are joined by `||`.
    joints: usize,
}

impl Term {
    fn add(&mut self, more: Weight) {
        self.now.operators += more.operators;
        self.now.doublings += more.doublings;
        self.now.readings += more.readings;
        self.now.joints += more.joints;
        self.most.operators = self.most.operators.max(self.now.operators);
        self.most.doublings = self.most.doublings.max(self.now.doublings);
        self.most.readings = self.most.readings.max(self.now.readings);
        self.most.joints = self.most.joints.max(self.now.joints);
    }

    fn next(&mut self) {
        self.now = Weight::default();
        self.betweens = 0;
    }
}

impl Check {
    fn token(
        &mut self,
        before: Option<&Token>,
        token: &Token,
        after: Option<&Token>,
    ) -> Result<()> {
        self.words += 1;
        match token {
            Token::Word(word) => self.word(before, word, after)?,
            Token::Number(..) | Token::EOF => {}
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => self.text(text),
            Token::HexStringLiteral(_) => {}
            Token::Comma => self.comma(),
            Token::LParen => self.open(End::Parenthesis, is_in(before), Call::of(before))?,
            // A list, or a place in one.
            Token::LBracket => self.open(End::Bracket, false, Call::Joining)?,
            Token::RParen => self.close(End::Parenthesis)?,
            Token::RBracket => self.close(End::Bracket)?,
            Token::LBrace | Token::RBrace => {
                return Err(Error::invalid_input("braces have no meaning in an expression"));
            }
            // The sign of a number is a part of it.
            Token::Minus if is_sign(before, after) => {}
            Token::Placeholder(_) | Token::Question | Token::Colon | Token::AtSign => {
                return Err(Error::invalid_input(
                    "the expression has a placeholder: write the value in its place",
                ));
            }
            Token::SemiColon => {
                return Err(Error::invalid_input("the expression must be one, without ';'"));
            }
            token if is_other_text(token) => {
                return Err(Error::invalid_input(format!(
                    "the expression has a text of an unknown kind: write it as 'text', not as {}",
                    shortened(&token.to_string())
                )));
            }
            Token::StringConcat => {
                self.makes_text = true;
                self.term().add(Weight { joints: 1, ..Weight::default() });
                self.operator();
            }
            _ => self.operator(),
        }
        if self.operators > MAX_OPERATORS {
            return Err(Error::invalid_input(format!(
                "the expression has more than {MAX_OPERATORS} operators and arguments: compare one \
                 column with many values by `column IN (…)`"
            )));
        }
        Ok(())
    }

    fn operator(&mut self) {
        self.operators += 1;
        self.term().add(Weight { operators: 1, ..Weight::default() });
    }

    fn word(&mut self, before: Option<&Token>, word: &Word, after: Option<&Token>) -> Result<()> {
        if after == Some(&Token::LParen) {
            self.makes_text |= !is_operator(word.keyword);
            self.function(&word.value.to_lowercase())?;
        }
        if is_column(before, word, after) {
            self.column()?;
        }
        let name = &word.value;
        self.parses_text |= name.eq_ignore_ascii_case("jsonb");
        if word.quote_style.is_some() {
            return Ok(());
        }
        let readings = readings(before, word.keyword);
        self.term().add(Weight { readings, ..Weight::default() });
        if is_operator(word.keyword) {
            self.operator();
        }
        match word.keyword {
            Keyword::SELECT => {
                return Err(Error::invalid_input("an expression cannot have a query in it"));
            }
            Keyword::VALUES if after == Some(&Token::LParen) => {
                return Err(Error::invalid_input("an expression cannot have a query in it"));
            }
            Keyword::OVER if before == Some(&Token::RParen) || after == Some(&Token::LParen) => {
                return Err(Error::invalid_input(NO_AGGREGATES));
            }
            Keyword::CASE => {
                self.makes_text = true;
                self.open(End::Case, false, Call::Other)?;
            }
            Keyword::END if self.open.last().is_some_and(|group| group.end == End::Case) => {
                self.close(End::Case)?;
            }
            Keyword::BETWEEN => {
                let term = self.term();
                term.add(Weight { doublings: 1, ..Weight::default() });
                term.betweens += 1;
            }
            Keyword::AND if self.term().betweens > 0 => self.term().betweens -= 1,
            Keyword::AND | Keyword::OR | Keyword::WHEN | Keyword::THEN | Keyword::ELSE => {
                self.term().next();
            }
            _ => {}
        }
        Ok(())
    }

    fn function(&mut self, name: &str) -> Result<()> {
        if UNBOUNDED.contains(&name) {
            return Err(Error::invalid_input(format!(
                "the function '{name}' is not served in an expression: its result can be of any \
                 size"
            )));
        }
        if DOUBLING.contains(&name) {
            self.term().add(Weight { doublings: 1, ..Weight::default() });
        }
        self.parses_text |= name.starts_with("json") || name.starts_with("arrow_");
        Ok(())
    }

    fn column(&mut self) -> Result<()> {
        if let Some(growing) = &mut self.growing {
            growing.columns += 1;
        }
        if self.open.iter().any(|group| group.call == Call::Replacing && group.commas >= 2) {
            return Err(Error::invalid_input(
                "what replace and regexp_replace put in the place of a match must be a text, not a \
                 column: the result could be of any size",
            ));
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if !self.open.last().is_some_and(|group| group.is_in_list) {
            self.text_bytes += text.len();
        }
        let is_only_looked_for =
            self.open.last().is_some_and(|group| group.call == Call::Replacing && group.commas < 2);
        if let Some(growing) = &mut self.growing
            && !is_only_looked_for
        {
            growing.text_bytes += text.len();
        }
        let brackets = text.bytes().filter(|byte| b"([{<".contains(byte)).count();
        // `FixedSizeList(2000000000, Int64)`, as the name of a type, asks for memory.
        self.has_bad_text |= brackets > MAX_BRACKETS_IN_TEXT
            || text.contains("FixedSize")
            || text.split("Decimal").skip(1).any(is_bad_decimal);
    }

    fn comma(&mut self) {
        if !self.open.last().is_some_and(|group| group.is_in_list) {
            self.operators += 1;
        }
        if let Some(group) = self.open.last_mut() {
            group.commas += 1;
        }
        self.term().next();
    }

    fn open(&mut self, end: End, is_in_list: bool, call: Call) -> Result<()> {
        // A bracket is an operator as well: `a[1][1][1]` nests as deep as it is long.
        if end == End::Bracket {
            self.operator();
        }
        if call != Call::Other {
            let depth = self.open.len();
            let growing = self.growing.get_or_insert(Growing {
                depth,
                multiplying: 0,
                joining: 0,
                text_bytes: 0,
                columns: 0,
            });
            growing.multiplying += u32::from(call.multiplies());
            growing.joining += usize::from(call.joins());
        }
        self.open.push(Group { end, is_in_list, call, commas: 0, term: Term::default() });
        if self.open.len() > MAX_NESTING {
            return Err(Error::invalid_input(format!(
                "the expression nests deeper than {MAX_NESTING} levels"
            )));
        }
        Ok(())
    }

    /// What follows a parenthesis too many, Lance would leave out without a word.
    fn close(&mut self, end: End) -> Result<()> {
        match self.open.pop() {
            Some(group) if group.end == end => {
                self.term().add(group.term.most);
                let depth = self.open.len();
                if let Some(grown) = self.growing.take_if(|growing| growing.depth == depth) {
                    self.most_growth = self.most_growth.max(grown.growth());
                }
                Ok(())
            }
            _ => Err(Error::invalid_input(
                "the expression closes a parenthesis that it has not opened",
            )),
        }
    }

    fn term(&mut self) -> &mut Term {
        self.open.last_mut().map_or(&mut self.whole, |group| &mut group.term)
    }

    /// How many words the parser may read; `None` if too many to be counted.
    fn readings(&self) -> Option<usize> {
        let times = u32::try_from(self.whole.most.readings).ok()?;
        2_usize.checked_pow(times)?.checked_mul(self.words)
    }

    /// How many times longer than the text of a row a text can be, at least 1.
    fn growth(&self) -> Option<usize> {
        self.most_growth.max(1).checked_mul(self.whole.most.joints + 1)
    }

    fn finish(&self) -> Result<()> {
        if !self.open.is_empty() {
            return Err(Error::invalid_input(
                "the expression opens a parenthesis or a CASE that it does not close",
            ));
        }
        let most = self.whole.most;
        if most.operators > MAX_CHAIN {
            return Err(Error::invalid_input(format!(
                "the expression has more than {MAX_CHAIN} operators that build on each other, \
                 without AND or OR between"
            )));
        }
        if self.readings().is_none_or(|words| words > MAX_READINGS) {
            return Err(Error::invalid_input(
                "the expression nests NOT, CASE, CAST or the like too deep for its length",
            ));
        }
        if most.doublings > MAX_DOUBLINGS {
            return Err(Error::invalid_input(format!(
                "the expression nests BETWEEN or coalesce deeper than {MAX_DOUBLINGS} levels"
            )));
        }
        if self.growth().is_none_or(|growth| growth > MAX_GROWTH) {
            return Err(Error::invalid_input(format!(
                "the expression makes too long a text of what it is given: less text in the calls \
                 of {}, and fewer columns in `||`, lists and the calls of {}",
                MULTIPLYING.join(", "),
                JOINING.join(", ")
            )));
        }
        if self.makes_text && self.text_bytes > MAX_MADE_OF_BYTES {
            return Err(Error::invalid_input(format!(
                "an expression with functions, CASE or `||` has no more than {MAX_MADE_OF_BYTES} \
                 bytes of text outside of IN lists"
            )));
        }
        if self.parses_text && self.has_bad_text {
            return Err(Error::invalid_input(
                "the expression has a text that nests too deep, or names a type of a fixed size, \
                 or a decimal type of more digits than there are",
            ));
        }
        Ok(())
    }
}

/// Whether the word names a column, as far as one word tells; part of a path counts once.
fn is_column(before: Option<&Token>, word: &Word, after: Option<&Token>) -> bool {
    let is_type = matches!(before, Some(Token::DoubleColon))
        || matches!(before, Some(Token::Word(word)) if word.keyword == Keyword::AS);
    if is_type || before == Some(&Token::Period) || after == Some(&Token::LParen) {
        return false;
    }
    word.quote_style.is_some()
        || !is_operator(word.keyword)
            && !matches!(
                word.keyword,
                Keyword::AS
                    | Keyword::ELSE
                    | Keyword::END
                    | Keyword::FALSE
                    | Keyword::NULL
                    | Keyword::THEN
                    | Keyword::TRUE
            )
}

fn is_in(before: Option<&Token>) -> bool {
    matches!(before, Some(Token::Word(word))
        if word.quote_style.is_none() && word.keyword == Keyword::IN)
}

/// Whether a minus between these two belongs to a number.
fn is_sign(before: Option<&Token>, after: Option<&Token>) -> bool {
    matches!(before, None | Some(Token::LParen | Token::Comma))
        && matches!(after, Some(Token::Number(..)))
}

/// Lance takes its argument without looking whether there is one.
fn is_empty_is_valid(tokens: &[Token]) -> bool {
    matches!(tokens, [Token::Word(word), Token::LParen, Token::RParen] if word.value == "is_valid")
}

/// Whether these begin with a levenshtein none of whose arguments is a text by itself. Its work is
/// the product of their lengths.
fn compares_columns(tokens: &[Token]) -> bool {
    let [Token::Word(word), Token::LParen, rest @ ..] = tokens else {
        return false;
    };
    if !word.value.eq_ignore_ascii_case("levenshtein") {
        return false;
    }
    let mut depth = 0_usize;
    let mut begins = 0;
    for (at, token) in rest.iter().enumerate() {
        let ends = depth == 0 && matches!(token, Token::Comma | Token::RParen);
        if ends && matches!(&rest[begins..at], [one] if is_text(one)) {
            return false;
        }
        match token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket if depth == 0 => return true,
            Token::RParen | Token::RBracket => depth -= 1,
            Token::Comma if depth == 0 => begins = at + 1,
            _ => {}
        }
    }
    true
}

fn is_text(token: &Token) -> bool {
    matches!(token, Token::SingleQuotedString(_) | Token::DoubleQuotedString(_))
}

fn is_wide_decimal(tokens: &[Token]) -> bool {
    let [Token::Word(word), Token::LParen, Token::Number(digits, _)] = tokens else {
        return false;
    };
    matches!(word.keyword, Keyword::DEC | Keyword::DECIMAL | Keyword::NUMERIC)
        && digits.parse::<u8>().map_or(true, |digits| digits > MAX_DECIMAL_DIGITS)
}

/// Whether what follows `Decimal` in the name of an Arrow type, as in `Decimal128(10, 2)`, asks for
/// digits that the type does not have.
fn is_bad_decimal(rest: &str) -> bool {
    let Some((width, rest)) = rest.split_once('(') else {
        return false;
    };
    let most = if width.trim() == "256" { 2 * MAX_DECIMAL_DIGITS } else { MAX_DECIMAL_DIGITS };
    let mut numbers = rest.split([',', ')']).map(|number| number.trim().parse::<u8>());
    let fits = matches!((numbers.next(), numbers.next()), (Some(Ok(digits)), Some(Ok(scale)))
        if digits <= most && scale <= digits);
    !fits
}

/// How often the parser may read again what follows this word. After most keywords that begin an
/// expression it starts over when it fails: the word could be a column's name.
fn readings(before: Option<&Token>, keyword: Keyword) -> usize {
    let own = match keyword {
        Keyword::POSITION => 2,
        Keyword::ARRAY
        | Keyword::CASE
        | Keyword::CAST
        | Keyword::CEIL
        | Keyword::CONVERT
        | Keyword::CURRENT_DATE
        | Keyword::CURRENT_TIME
        | Keyword::CURRENT_TIMESTAMP
        | Keyword::EXISTS
        | Keyword::EXTRACT
        | Keyword::FLOOR
        | Keyword::INTERVAL
        | Keyword::LOCALTIME
        | Keyword::LOCALTIMESTAMP
        | Keyword::NOT
        | Keyword::OVERLAY
        | Keyword::SAFE_CAST
        | Keyword::STRUCT
        | Keyword::SUBSTR
        | Keyword::SUBSTRING
        | Keyword::TRIM
        | Keyword::TRY_CAST => 1,
        _ => 0,
    };
    // After a dot it starts over once more.
    if before == Some(&Token::Period) { own * 2 } else { own }
}

/// Words that make an expression deeper.
fn is_operator(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::ALL
            | Keyword::AND
            | Keyword::ANY
            | Keyword::AT
            | Keyword::BETWEEN
            | Keyword::CASE
            | Keyword::CAST
            | Keyword::COLLATE
            | Keyword::DIV
            | Keyword::EXCEPT
            | Keyword::EXISTS
            | Keyword::ILIKE
            | Keyword::IN
            | Keyword::INTERSECT
            | Keyword::INTERVAL
            | Keyword::IS
            | Keyword::LIKE
            | Keyword::MEMBER
            | Keyword::MINUS
            | Keyword::NOT
            | Keyword::NOTNULL
            | Keyword::OPERATOR
            | Keyword::OR
            | Keyword::OVERLAPS
            | Keyword::PRIOR
            | Keyword::REGEXP
            | Keyword::RLIKE
            | Keyword::SAFE_CAST
            | Keyword::SIMILAR
            | Keyword::TRY_CAST
            | Keyword::UNION
            | Keyword::WHEN
            | Keyword::XOR
    )
}

/// Texts that Lance's planner has no arm for.
fn is_other_text(token: &Token) -> bool {
    matches!(
        token,
        Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
            | Token::TripleSingleQuotedByteStringLiteral(_)
            | Token::TripleDoubleQuotedByteStringLiteral(_)
            | Token::SingleQuotedRawStringLiteral(_)
            | Token::DoubleQuotedRawStringLiteral(_)
            | Token::TripleSingleQuotedRawStringLiteral(_)
            | Token::TripleDoubleQuotedRawStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::QuoteDelimitedStringLiteral(_)
            | Token::NationalQuoteDelimitedStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
    )
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn passes(text: &str) {
        if let Err(error) = check(text) {
            panic!("{}: {error}", shortened(text));
        }
    }

    #[track_caller]
    fn fails(text: &str) {
        assert!(matches!(check(text), Err(Error::InvalidInput(_))), "{}", shortened(text));
    }

    fn chain(term: &str, joint: &str, times: usize) -> String {
        vec![term; times].join(joint)
    }

    #[test]
    fn everyday_expressions_pass() {
        for text in [
            "id = 1",
            "`it's` = 'O''Brien'",
            "name LIKE 'a%' AND id BETWEEN 1 AND 5 OR id IS NOT NULL",
            "point.x = -6",
            "CASE WHEN id > 1 THEN 'a' ELSE 'b' END = 'a'",
            "name = '$1 ?; (((' -- a (comment",
            "replace(replace(name, '-', ''), ' ', '') = 'abc'",
            "coalesce(name, 'x') = 'x'",
            "ts > TIMESTAMP '2024-01-01 00:00:00' /* since ( then */",
            "`range` = 1 AND range = 1",
            "id == 1",
            "CAST(id AS DECIMAL(38, 2)) = arrow_cast(1, 'Decimal256(76, 2)')",
            "arrow_cast(name, 'Dictionary(Int8, Utf8)') = 'a'",
        ] {
            passes(text);
        }
    }

    #[test]
    fn long_lists_and_flat_chains_pass() {
        passes(&format!("id IN ({})", chain("-12345", ",", 100_000)));
        passes(&chain("id = 1", " OR ", 500));
        passes(&chain("(id BETWEEN 1 AND 2)", " OR ", 300));
        passes(&chain("id BETWEEN 1 AND 2", " AND ", 300));
        passes(&chain("NOT id = 1 AND name IS NOT NULL", " AND ", 150));
        passes(&format!("id{}=5", "+1".repeat(99)));
        passes(&format!("NOT (CAST(id AS INT) IN ({}))", chain("1", ",", 200_000)));
        passes(&format!("{}id{} = 1", "CAST(".repeat(10), " AS INT)".repeat(10)));
    }

    #[test]
    fn too_long_or_too_deep_fails() {
        fails(&" ".repeat(MAX_BYTES + 1));
        fails(&chain("id = 1", " OR ", 502));
        fails(&format!("id{}=5", "+1".repeat(100)));
        fails(&format!("id{}=5", "::int".repeat(100)));
        fails(&format!("a{}=5", ".a".repeat(100)));
        fails(&format!("a{}=5", "[1]".repeat(100)));
        fails(&format!("(id{}) + 1 = 5", "+1".repeat(99)));
        fails(&format!("concat({}) = ''", chain("name", ",", 1_002)));
        fails(&format!("id = 1 {}", "UNION SELECT 1 ".repeat(501)));
        fails(&format!("id = {}1{}", "CASE - ".repeat(31), " END".repeat(31)));
        fails(&format!("id = {}*", "NOT - ".repeat(31)));
        fails(&format!("{}id{}", "CAST(".repeat(31), ")".repeat(31)));
        fails(&format!("{}true", "NOT ".repeat(1_001)));
        fails(&format!("{}1{} = 1", "(".repeat(33), ")".repeat(33)));
        let case = format!("{}1{}", "CASE WHEN true THEN ".repeat(33), " END".repeat(33));
        fails(&case);
        fails(&format!("id{} = true", " BETWEEN 0 AND 1".repeat(5)));
        fails(&format!("{}id{} = 1", "coalesce(".repeat(5), ",1)".repeat(5)));
    }

    #[test]
    fn nothing_hides_in_quotations() {
        fails(r"name = 'a\' OR repeat('a', 9) = '");
        fails("name = \"it's\" OR repeat('a', 9) = 'x'");
        fails("name = 'x' /* /* */ */ OR repeat('a', 9) = 'x'");
        fails("`repeat`('a', 9) = 'x'");
        fails("REPEAT /* ( */ ('a', 9) = 'x'");
    }

    #[test]
    fn what_lance_would_trip_over_fails() {
        for text in [
            "id = $1",
            "id = ?",
            "id = :id",
            "id = 1; id = 2",
            "id = 1) OR (id = 2",
            "id = (1",
            "name = N'a'",
            "name = $$a$$",
            "(id = 1]",
            "CAST(id AS DECIMAL(39, 2)) = 1",
            "id::decimal(300, 2) = 1",
            "arrow_cast(id, 'Decimal128(76, 2)') = 1",
            "arrow_cast(id, 'List(Decimal128 (10, -100))') = 1",
            "CASE WHEN true THEN 1",
            "is_valid()",
            "id = 1 id = 2",
            "id = 1, id = 2",
            "row_number() OVER () = 1",
            "id > 1 name",
            "id > 1 LIMIT 1",
            "id > 1 ORDER BY id",
            "id = 1 UNION",
            "id > 1 AND",
            "",
        ] {
            fails(text);
        }
    }

    #[test]
    fn what_a_request_holds_is_counted_together() {
        let all = |text: &str, times: usize| check_all(vec![text; times]);
        assert!(all("id + 1", 1_000).is_ok());
        assert!(all("id + 1", 1_001).is_err());
        assert!(all("upper(name)", 1_000).is_ok());
        assert!(all("concat(name, name)", 64).is_ok());
        assert!(all("concat(name, name)", 65).is_err());
        let deep = format!("{}1{}", "floor(".repeat(12), ")".repeat(12));
        assert!(all(&deep, 10).is_ok());
        assert!(all(&deep, 100).is_err());
        assert!(all(&format!("name = '{}'", "a".repeat(600_000)), 2).is_err());
    }

    #[test]
    fn what_grows_without_bound_fails() {
        for name in UNBOUNDED {
            fails(&format!("{name}('a', 1000000000) = 'x'"));
        }
        let long = "a".repeat(100);
        fails(&format!("replace(replace(name, 'a', '{long}'), 'a', '{long}') = 'x'"));
        fails(&format!("length(replace(name, 'q', '{}')) > 1", "z".repeat(64)));
        fails("length(replace(name, 'q', name)) > 1");
        fails("length(regexp_replace(name, 'q', upper(name))) > 1");
        fails(&format!("length(concat({})) > 1", chain("name", ",", 65)));
        fails(&format!("length(name{}) > 1", " || name".repeat(64)));
        fails(&format!("array_length([{}]) > 1", chain("name", ",", 65)));
        let eight = chain("name", ",", 8);
        fails(&format!("replace(concat({eight}), 'q', '12345678') = 'x'"));
        fails(&format!("concat(name, '{}') = 'x'", "a".repeat(MAX_MADE_OF_BYTES)));
        fails(&format!("name = CASE WHEN id = 1 THEN '{}' END", "a".repeat(20_000)));
        passes(&format!("replace(concat({eight}), 'q', '1234567') = 'x'"));
        passes(&format!("name = '{}'", "a".repeat(100_000)));
        passes(&format!("upper(name) IN ('{}')", "a".repeat(100_000)));
        passes("regexp_replace(regexp_replace(name, '[^a-z0-9]+', '-'), '^-|-$', '') = 'x'");
        passes(&chain("concat(name, id) = 'x'", " OR ", 100));
        passes("CASE WHEN id > 1 THEN replace(name, 'a', 'b') ELSE name END = 'x'");
        fails(&format!("levenshtein('{}', name) = 3", "a".repeat(5_000)));
        fails(&format!("arrow_cast(1, '{}Int8{}') = 1", "List(".repeat(300), ")".repeat(300)));
        fails("arrow_cast(NULL, 'FixedSizeBinary(2000000000)') IS NULL");
        fails(&format!("CAST('{}' AS JSONB) = 1", "[".repeat(300)));
    }
}
