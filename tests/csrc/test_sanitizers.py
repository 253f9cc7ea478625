"""Errors in C++ end a program under --sanitize."""

from pathlib import Path

import pytest

ERRORS = {
    "AddressSanitizer": "int* made = new int[count]; delete[] made; return made[0];",
    "LeakSanitizer": "int* volatile made = new int[4]; made = nullptr; return made != nullptr;",
    "runtime error": "int largest = 2147483644; return largest + count > 0 ? 0 : 1;",
}


@pytest.mark.parametrize("report", ERRORS)
def test_an_error_ends_the_program(
    report: str, run_cpp, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not request.config.getoption("--sanitize"):
        pytest.skip("needs --sanitize")
    source = tmp_path / "error.cpp"
    source.write_text(f"int main(int count, char**) {{ count *= 4; {ERRORS[report]} }}\n")
    with pytest.raises(AssertionError, match=report):
        run_cpp(str(source))
