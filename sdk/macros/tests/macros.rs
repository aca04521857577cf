//! The macros' errors are sentences: `tests/ui` has them as the compiler prints them.

#[test]
fn errors_are_sentences() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/good/*.rs");
    cases.compile_fail("tests/ui/bad/*.rs");
}
