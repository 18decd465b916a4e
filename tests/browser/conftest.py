# SPDX-License-Identifier: Apache-2.0
import pathlib
import sys

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

repo = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(repo / "e2e-vagrant/lib"), str(repo / "tests/integration")]

import patience  # noqa: F401


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for a in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
              f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(a)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    b = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    b.set_page_load_timeout(60)
    yield b
    b.quit()
