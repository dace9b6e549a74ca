"""Logging in by a link or a key, and what a cookie is good for."""

import pytest

from gossamer.cli.main import main
from gossamer.studio.sessions import FAILURES

TOKEN = "one-time-token"


def own(client):
    """What a browser sends along from a page of this server."""
    return {"Origin": f"http://{client.base_url.host}:{client.base_url.port}"}


def log_in(client, headers=None, **body):
    return client.post("/studio/session", json=body, headers=own(client) | (headers or {}))


def test_the_link_opens_one_session_of_an_administrator_once(serve):
    with serve(token=TOKEN, page=True) as client:
        assert client.get("/v1/adapters").status_code == 403
        answer = log_in(client, token=TOKEN)
        assert answer.json()["admin"] is True
        cookie = answer.headers["set-cookie"]
        for mark in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
            assert mark in cookie
        assert f"gossamer-session-{client.base_url.port}=" in cookie
        assert "Secure" not in cookie
        assert client.get("/v1/adapters").status_code == 200
        assert client.get("/studio/session").json()["train"] is True
        client.cookies.clear()
        again = log_in(client, token=TOKEN)
        assert (again.status_code, again.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.get("/v1/adapters").status_code == 403


def test_a_cookie_changes_nothing_without_our_own_origin(serve):
    with serve(token=TOKEN, page=True) as client:
        log_in(client, token=TOKEN)
        unload = ("DELETE", "/v1/adapters/x")
        assert client.request(*unload).status_code == 403
        assert client.request(*unload, headers={"Origin": "http://evil.example"}).status_code == 403
        assert client.request(*unload, headers={"Origin": "null"}).status_code == 403
        assert client.request(*unload, headers=own(client)).status_code == 200
        assert client.engine.controls == [("unload", "x")]


def test_a_session_ends_when_it_is_logged_out_or_its_key_is_revoked(serve, keys, capsys):
    key = keys("alice", "--train")
    with serve(page=True, keys=keys.path) as client:
        assert client.get("/studio/session").status_code == 401
        assert log_in(client, key="gsm_00000000_" + "x" * 43).status_code == 401
        shown = log_in(client, key=key).json()
        assert (shown["tenant"], shown["admin"], shown["train"]) == ("alice", False, True)
        assert client.get("/v1/files").status_code == 200
        assert client.get("/v1/adapters").status_code == 403
        client.request("DELETE", "/studio/session", headers=own(client))
        assert client.get("/v1/files").status_code == 401
        log_in(client, key=key)
        assert client.get("/v1/files").status_code == 200
        assert main(["keys", "revoke", key, "--file", str(keys.path)]) == 0
        assert client.get("/v1/files").status_code == 401


def test_a_cookie_that_was_made_up_is_nobody(serve, keys):
    keys("alice", "--train")
    with serve(page=True, keys=keys.path) as client:
        client.cookies.set(f"gossamer-session-{client.base_url.port}", "x" * 43)
        assert client.get("/v1/files").status_code == 401


def test_behind_tls_the_cookie_is_for_tls_only(serve):
    with serve(token=TOKEN, page=True) as client:
        host = own(client)["Origin"].partition("://")[2]
        answer = log_in(client, {"Origin": f"https://{host}"}, token=TOKEN)
        assert "Secure" in answer.headers["set-cookie"]


def test_guessing_is_slowed_down(serve):
    with serve(token=TOKEN, page=True) as client:
        codes = [log_in(client, token=f"guess-{n}").status_code for n in range(FAILURES + 1)]
        assert codes == [401] * FAILURES + [429]
        late = log_in(client, token=TOKEN)
        assert late.status_code == 429
        assert int(late.headers["retry-after"]) > 0


def test_a_page_of_another_site_can_neither_log_in_nor_see(serve):
    with serve(token=TOKEN, page=True) as client:
        headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
        answer = client.post("/studio/session", json={"token": TOKEN}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
        host = {"Host": "evil.example"}
        assert client.get("/studio/session", headers=host).status_code == 421
        assert log_in(client, token=TOKEN).status_code == 200


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": 3}, {"password": "x"}])
def test_a_login_without_a_secret_is_refused(serve, body):
    with serve(token=TOKEN, page=True) as client:
        assert log_in(client, **body).status_code in (400, 401)
