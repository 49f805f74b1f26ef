# The same commands work without `just`: see `cargo xtask help`.

# everything that CI does
check:
    .ci/run

# all tests, with all set-up; `just test --quick` for a shorter simulation
test *args:
    cargo xtask test {{args}}

# the checks of the repository itself
tidy:
    cargo xtask tidy

# lay out all Rust code
fmt:
    cargo fmt --all
