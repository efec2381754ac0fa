"""Profile files: read, located, inherited, computed; and every mistake named with its place."""

from __future__ import annotations

import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.operations.model import RequestError
from holdfast.tuning.planning.inventory import Inventory
from holdfast.tuning.planning.resolve import Resolved, resolve
from holdfast.tuning.profile.expressions import ExpressionError, evaluate, fill
from holdfast.tuning.profile.layers import Layer, ProfileError
from holdfast.tuning.profile.library import Library
from holdfast.tuning.profile.reader import read_layer
from holdfast.tuning.profile.statements import locate
from holdfast.tuning.subsystems import all_subsystems

BUILTIN = (
    "base",
    "cassandra",
    "elasticsearch",
    "memcached",
    "network",
    "nvme",
    "redis",
    "zookeeper",
)


def read(text: str) -> Layer:
    return read_layer("mine", "mine.toml", text.encode(), builtin=False)


def mistakes(text: str) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        read(text)
    return [str(mistake) for mistake in caught.value.mistakes]


def wrong_lines(text: str) -> list[int] | None:
    """Return the lines with mistakes; None if there are none."""
    try:
        read(text)
    except ProfileError as error:
        return [mistake.line for mistake in error.mistakes]
    return None


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "reported"),
        [
            ("[sysctl\n", "mine.toml:1: is not valid TOML"),
            ("[sysctl]\na = 1\na = 2\n", "mine.toml:3: is not valid TOML"),
            ("[sysctls]\n", "mine.toml:1: `sysctls` is no subsystem of holdfast; did you mean"),
            ("\n[profile]\npolicy = 'fight'\n", 'mine.toml:3: `profile.policy` should be "report"'),
            ("[profile]\nextends = 5\n", "mine.toml:2: `profile.extends` should be a list"),
            ("[profile]\nextends = ['../x']\n", "names '../x', which no profile can be"),
            ("[sysctl]\nvm.swappiness = 300\n", "`sysctl.vm.swappiness` should be from 0 to 200"),
            ("[sysctl]\nvm.swappiness = true\n", "write 1 or 0"),
            ("[sysctl]\nvm.swappiness = [1]\n", "should be a number or text"),
            ("[sysctl]\n'vm/swappiness' = 1\n'vm.swappiness' = 2\n", "is set twice"),
            ("[sysctl]\nswappiness = 1\n", "is not the name of a sysctl"),
            ("[block]\nscheduler = 'none'\n", "is written [[block]], with two brackets"),
            ("[[block]]\nscheduler = 'none'\n", "`block[1].select` should select devices"),
            ("[[block]]\nselect = { name = 'sda' }\n", "a name is not kept between boots"),
            ("[[block]]\nselect = { role = 'disk' }\n", "should be one of array, array-member"),
            ("[[block]]\nselect = { rotational = 'no' }\n", "should be true or false"),
            (
                "[[block]]\nselect = { role = 'array' }\nnomerges = 3\n",
                "mine.toml:3: `block[1].nomerges` should be a number from 0 to 2, not 3",
            ),
            (
                "[[network]]\nselect = { physical = true }\nqdisc = 'fqq'\n",
                "`network[1].qdisc` should be one of fq, fq_codel",
            ),
            (
                "[[network]]\nselect = { physical = true }\nqdisc = { kind = 'fq', limt = 5 }\n",
                "has `limt`, which is no parameter of fq",
            ),
            (
                "[[network]]\nselect = { physical = true }\nqdisc = { kind = 'tbf' }\n",
                "needs `rate`, `burst` and `latency`",
            ),
            ("[memory]\nswap = 'on'\n", "`memory.swap` should be one of off"),
            (
                "[memory]\nhugepages = 'never'\n",
                "is not a setting of memory; did you mean `transparent_hugepages`?",
            ),
            ("[limits.cassandra]\nnofile = 1\n", "is not the name of a service unit"),
            ("[limits.'../x.service']\nnofile = 1\n", "is not the name of a service unit"),
            ("[limits.'a.service']\nnofiles = 1\n", "did you mean `nofile`?"),
            ("[limits.'a.service']\nnofile = 'lots'\n", "a number from 0 to"),
            ("[modules.'a/b']\nx = 1\n", "is not the name of a kernel module"),
            ("[variables]\nA = 1\n", "is no name for a variable"),
            ("[sysctl]\nvm.swappiness = { value = 1, unset = true }\n", "cannot be unset and have"),
            ("[sysctl]\nvm.swappiness = { when = 'cpus > 1' }\n", "needs a `value`"),
            ("[sysctl]\nvm.swappiness = { value = 1, wen = '1' }\n", "did you mean `when`?"),
        ],
    )
    def test_each_names_its_place(self, text: str, reported: str) -> None:
        assert any(reported in mistake for mistake in mistakes(text)), mistakes(text)

    def test_all_are_told_at_once(self) -> None:
        text = "[blok]\n[sysctl]\nvm.swappiness = 300\n[memory]\nswap = 5\n"
        assert len(mistakes(text)) == 3

    def test_text_that_is_not_utf8_or_too_large(self) -> None:
        for content in (b"\xff", b"#" * (1 << 17)):
            with pytest.raises(ProfileError):
                read_layer("mine", "mine.toml", content, builtin=False)

    @settings(deadline=None)
    @given(st.text(alphabet="[]{}=\"'#\n .abcsysctlblock12_", max_size=80))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        assert wrong_lines(text) is None or wrong_lines(text)

    @settings(deadline=None)
    @given(
        st.sampled_from(["sysctl", "block", "network", "memory", "limits", "modules", "profile"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(string.ascii_lowercase, min_size=1, max_size=8), inner)
            ),
            max_leaves=8,
        ),
    )
    def test_any_value_is_read_or_refused(self, table: str, value: Any) -> None:
        text = f"{table} = {_toml(value)}\n"
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return
        assert set(wrong_lines(text) or [1]) == {1}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return str(value) if value is not None else '""'


class TestPlaces:
    def test_comments_belong_to_their_values(self) -> None:
        found = locate(
            "# of nothing\n\n# of\n# one\none = 1\ntwo = 'a # b'  # of two\n"
            "three = [\n  1, # no\n]\n[t]\nfour.five = { six = 6 }  # of four\n"
            "[[a]]\nx = 1\n[[a]]\nx = 2\n"
        )
        assert found["one",].comment == "of one"
        assert found["two",].comment == "of two"
        assert found["three",].line == 7
        assert found["t", "four", "five", "six"].comment == "of four"
        assert found["a", 0, "x"].line == 13
        assert found["a", 1, "x"].line == 15

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["[t]", "[[a]]", "[a.b]", "[t.u]", "plain"]),
                st.text(string.ascii_lowercase, min_size=1, max_size=5),
                st.sampled_from(["1", "'x'", '"""\n# no\n"""', "[\n1,\n2]", "{ p = 1 }"]),
            ),
            max_size=8,
        )
    )
    def test_every_value_of_a_valid_file_is_found_on_its_line(self, parts: Any) -> None:
        text = ""
        for header, key, value in parts:
            text += f"{header}\n{key} = {value}\n" if header != "plain" else f"{key} = {value}\n"
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return
        found = locate(text)
        lines = text.splitlines()
        for path in _paths(document):
            assert path in found, (text, path)
            if isinstance(path[-1], str) and path[-1] not in ("t", "u", "a", "b"):
                assert str(path[-1]) in lines[found[path].line - 1]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        inner = [_paths(member, (*path, key)) for key, member in value.items()]
        return [path for some in inner for path in some]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [inner for n, item in enumerate(value) for inner in _paths(item, (*path, n))]
    return [path]


NUMBERS = st.integers(0, 1000).map(str) | st.sampled_from(["cpus", "memory_kib"])
VARIABLES = {"cpus": 8, "memory_kib": 1 << 24}


class TestExpressions:
    @settings(deadline=None)
    @example("(0 // (1 // (0 or cpus)))")
    @example("(7 // (3 and cpus))")
    @example("((0 and (1 // 0)) + (cpus or (1 % 0)))")
    @given(
        st.recursive(
            NUMBERS,
            lambda inner: st.tuples(
                inner,
                st.sampled_from(["+", "-", "*", "//", "%", "<", ">=", "==", "and", "or"]),
                inner,
            ).map(lambda parts: f"({' '.join(parts)})"),
            max_leaves=8,
        )
    )
    def test_arithmetic_is_that_of_python(self, text: str) -> None:
        try:
            wanted = eval(text, {"__builtins__": {}}, VARIABLES)
        except ZeroDivisionError:
            with pytest.raises(ExpressionError, match=r"divides by zero|is too large"):
                evaluate(text, VARIABLES)
            return
        try:
            found = str(evaluate(text, VARIABLES))
        except ExpressionError as error:
            found = str(error)
        # There is a bound, which Python does not have.
        assert found == str(int(wanted)) or found.endswith("is too large")

    def test_what_an_operand_rules_out_is_still_checked(self) -> None:
        for text in ("0 and cpu", "1 or min(1)", "cpus or true"):
            with pytest.raises(ExpressionError):
                evaluate(text, VARIABLES)

    @pytest.mark.parametrize(
        "text",
        [
            "cpus.real",
            "__import__('os')",
            "().__class__",
            "[1][0]",
            "9**9",
            "1 << 9",
            "lambda: 1",
            "'a'",
            "min",
            "min(1)",
            "nope",
            "1 if 1 else 2",
            "cpus := 5",
            "f(1)",
            "True",
            "",
            "1 +",
            "(" * 400,
            "9" * 600,
            "1e400",
            "1/0",
            "clamp(1,2,3,key=4)",
        ],
    )
    def test_nothing_else_can_be_said(self, text: str) -> None:
        with pytest.raises(ExpressionError):
            evaluate(text, VARIABLES)

    def test_places_in_a_text_are_filled(self) -> None:
        assert fill("4096 ${cpus * 2} ${memory_kib / 3}", VARIABLES) == "4096 16 5592405"
        assert evaluate("clamp(cpus * 1024, 4096, 65535)", VARIABLES) == 8192
        assert evaluate("not (cpus >= 8 and max(1, 2) == 2)", VARIABLES) == 0


def write(directory: Path, name: str, text: str) -> None:
    (directory / f"{name}.toml").write_text(text)


def resolved(directory: Path, name: str) -> Resolved:
    lineage = Library(directory).lineage(name)
    return resolve(lineage, Inventory([Path("/")]), all_subsystems())


class TestInheritance:
    def test_a_child_replaces_and_takes_away(self, tmp_path: Path) -> None:
        write(tmp_path, "old", "[sysctl]\nvm.swappiness = 1\nvm.overcommit_memory = 1\n")
        write(
            tmp_path,
            "new",
            "[profile]\nextends = 'old'\npolicy = 'enforce'\n"
            "[sysctl]\nvm.swappiness = 2\nvm.overcommit_memory = { unset = true }\n",
        )
        found = resolved(tmp_path, "new")
        assert [
            (setting.knob.name, setting.value, setting.profile) for setting in found.wanted
        ] == [("vm.swappiness", "2", "new")]
        assert found.policy == "enforce"

    def test_a_common_ancestor_is_no_contradiction(self, tmp_path: Path) -> None:
        write(tmp_path, "top", "[sysctl]\nvm.swappiness = 1\n")
        write(tmp_path, "left", "[profile]\nextends = 'top'\n[sysctl]\nvm.swappiness = 2\n")
        write(tmp_path, "right", "[profile]\nextends = 'top'\n")
        for order in ("'left', 'right'", "'right', 'left'"):
            write(tmp_path, "bottom", f"[profile]\nextends = [{order}]\n")
            assert [setting.value for setting in resolved(tmp_path, "bottom").wanted] == ["2"]

    def test_what_does_not_hold_lets_the_parent_speak(self, tmp_path: Path) -> None:
        write(tmp_path, "old", "[sysctl]\nvm.swappiness = 1\n")
        value = "{ value = 2, when = 'cpus > 99999' }"
        write(tmp_path, "new", f"[profile]\nextends = 'old'\n[sysctl]\nvm.swappiness = {value}\n")
        assert [setting.value for setting in resolved(tmp_path, "new").wanted] == ["1"]

    def test_a_parent_that_is_not_there_is_named_where_it_is_asked_for(
        self, tmp_path: Path
    ) -> None:
        write(tmp_path, "new", "[profile]\nextends = 'elasticsearc'\n")
        with pytest.raises(ProfileError, match=r"new\.toml:2: .*did you mean elasticsearch"):
            Library(tmp_path).lineage("new")
        with pytest.raises(RequestError, match="There is no profile"):
            Library(tmp_path).lineage("nope")

    def test_an_own_profile_wins_over_a_built_in_one(self, tmp_path: Path) -> None:
        write(tmp_path, "redis", "[profile]\ndescription = 'Ours.'\n")
        assert Library(tmp_path).layer("redis").description == "Ours."
        assert not Library(tmp_path).layer("redis").builtin

    def test_a_computed_value_out_of_range_is_a_mistake(self, tmp_path: Path) -> None:
        write(tmp_path, "new", "[sysctl]\nvm.swappiness = '${cpus * 1000}'\n")
        with pytest.raises(ProfileError, match="should be from 0 to 200"):
            resolved(tmp_path, "new")
        write(tmp_path, "new", "[variables]\ncpus = 1\nb = 'c'\n")
        with pytest.raises(ProfileError) as caught:
            resolved(tmp_path, "new")
        assert [mistake.line for mistake in caught.value.mistakes] == [2, 3]


class TestBuiltIn:
    def test_they_are_those(self, tmp_path: Path) -> None:
        assert Library(tmp_path).names() == list(BUILTIN)

    @pytest.mark.parametrize("name", BUILTIN)
    def test_every_value_names_its_source(self, tmp_path: Path, name: str) -> None:
        layer = Library(tmp_path).layer(name)
        assert layer.description
        entries = [entry for table in layer.tables for entry in table.entries]
        assert entries
        for entry in entries:
            assert len(entry.spot.comment) >= 8, entry.spot

    @pytest.mark.parametrize("name", BUILTIN)
    def test_each_resolves_on_this_machine(self, tmp_path: Path, name: str) -> None:
        assert resolved(tmp_path, name).profile == name
