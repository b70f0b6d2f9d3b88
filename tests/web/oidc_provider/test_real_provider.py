"""Login with a real identity provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from reconciler.config.web import OidcSettings
from reconciler.web.login.oidc import LoggedIn, LoginFailed, OidcLogin
from reconciler.web.visitors import Role
from tests.web.oidc_provider.process import CLIENT, SECRET, Person, Provider, provider
from tests.web.own_provider import PAGE


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with provider(tmp_path_factory.mktemp("provider"), f"{PAGE}/login/callback") as running:
        yield running


@pytest.fixture
def login(real: Provider, tmp_path: Path) -> OidcLogin:
    (tmp_path / "secret").write_text(SECRET)
    return OidcLogin(
        OidcSettings(
            issuer=real.issuer,
            client_id=CLIENT,
            client_secret_file=str(tmp_path / "secret"),
            ca_file=real.ca_file,
            scopes=("openid", "email", "groups"),
            viewers=("models-viewers",),
            operators=("models-operators",),
        ),
        PAGE,
    )


def query(address: str) -> dict[str, str]:
    assert address.startswith(f"{PAGE}/login/callback?"), address
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


def log_in(login: OidcLogin, person: Person, user: str) -> LoggedIn:
    begun = login.begin("/gpus")
    return login.finish(query(person.log_in(begun.location, user)), begun.cookie)


@pytest.mark.parametrize(("user", "role"), [("olga", Role.OPERATOR), ("vera", Role.VIEWER)])
def test_person_logs_in_with_the_role_of_their_groups(real: Provider, login: OidcLogin, user: str, role: Role):
    person = Person(real)
    found = log_in(login, person, user)
    assert (found.name, found.role, found.next) == (f"{user}@example.com", role, "/gpus")
    # The provider knows them by now.
    assert log_in(login, person, "").name == found.name


def test_person_in_none_of_the_groups_reads_theirs(real: Provider, login: OidcLogin):
    with pytest.raises(LoginFailed, match=r"nina@example.com is in no group .* Your groups: staff") as found:
        log_in(login, Person(real), "nina")
    assert found.value.status == 403


def test_person_who_cancels_reads_what_the_provider_says(real: Provider, login: OidcLogin):
    begun = login.begin("/")
    answer = query(Person(real).cancel(begun.location))
    with pytest.raises(LoginFailed, match="access_denied"):
        login.finish(answer, begun.cookie)


def test_code_of_another_login_is_refused(real: Provider, login: OidcLogin):
    person = Person(real)
    mine, theirs = login.begin("/"), login.begin("/")
    stolen = query(person.log_in(theirs.location, "olga"))["code"]
    answer = query(person.log_in(mine.location, "")) | {"code": stolen}
    with pytest.raises(LoginFailed, match="invalid_grant"):
        login.finish(answer, mine.cookie)


def test_code_is_refused_the_second_time(real: Provider, login: OidcLogin):
    person = Person(real)
    begun = login.begin("/")
    answer = query(person.log_in(begun.location, "olga"))
    login.finish(answer, begun.cookie)
    again = login.begin("/")
    replayed = query(person.log_in(again.location, "")) | {"code": answer["code"]}
    with pytest.raises(LoginFailed, match="invalid_grant"):
        login.finish(replayed, again.cookie)


def test_wrong_client_secret_is_named(real: Provider, login: OidcLogin, tmp_path: Path):
    (tmp_path / "secret").write_text("another")
    with pytest.raises(LoginFailed, match=r"invalid_client .*web.auth.oidc.client_secret_file"):
        log_in(login, Person(real), "olga")
