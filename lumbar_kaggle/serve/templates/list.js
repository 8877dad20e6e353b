"use strict";
// The work list: asks for what has changed, and keeps the table sorted and filtered.
(() => {
  const GRADES = ["normal_mild", "moderate", "severe"];
  const GRADE_WORDS = { normal_mild: "Normal/Mild", moderate: "Moderate", severe: "Severe" };
  const STATUSES = ["failed", "graded", "waiting", "copying"];
  const BUSY_MS = 2000, IDLE_MS = 5000;
  const natural = new Intl.Collator(undefined, { numeric: true }).compare;
  const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

  const one = (selector) => document.querySelector(selector);
  const body = one("#list tbody"), filters = one("#filters"), said = one("#said");
  const heads = [...document.querySelectorAll("#list thead button")];
  const conditions = heads.map((head) => head.dataset.key).filter((key) => !["study", "status", "changed"].includes(key));
  const rows = new Map(); // study → { facts, row }
  let cursor = "", order = [], sort = { key: "study", down: false };

  function element(name, content = [], attributes = {}) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...[content].flat());
    return made;
  }

  function percent(share) {
    if (share > 0 && share < 0.005) return "<1%";
    return share >= 0.995 && share < 1 ? ">99%" : `${Math.round(100 * share)}%`;
  }

  function gradeCell(grade) {
    if (!grade) return element("td", element("small", "–"));
    const level = grade.level.toUpperCase().replace("_", "/");
    const words = [element("b", GRADE_WORDS[grade.severity]), element("small", `${level} ${percent(grade.probability)}`)];
    return element("td", element("div", words, { class: `grade ${grade.severity}` }));
  }

  function statusCell(facts) {
    const words = facts.status[0].toUpperCase() + facts.status.slice(1);
    if (!facts.reason) return element("td", words);
    const shown = facts.status === "failed" ? { open: "" } : {};
    return element("td", element("details", [element("summary", words), facts.reason], shown), { class: facts.status });
  }

  function draw(facts) {
    const row = element("tr"), page = `study?id=${encodeURIComponent(facts.study)}`;
    const name = facts.readable ? element("a", facts.study, { href: page }) : facts.study;
    row.append(element("th", name, { scope: "row" }), statusCell(facts));
    row.append(...conditions.map((condition) => gradeCell(facts.worst[condition])));
    row.append(element("td", element("small", facts.changed ? clock.format(new Date(facts.changed)) : "–")));
    return row;
  }

  function replaceRow(facts) {
    const before = rows.get(facts.study), row = draw(facts);
    rows.set(facts.study, { facts, row });
    if (!before || !before.row.isConnected) return;
    const focused = before.row.contains(document.activeElement);
    before.row.replaceWith(row);
    if (focused) row.querySelector("a")?.focus({ preventScroll: true });
  }

  // What a column sorts by; what has no grade comes last either way.
  function compared(first, second) {
    const { key, down } = sort, by = natural(first.study, second.study), sign = down ? -1 : 1;
    if (key === "study") return sign * by;
    if (key === "changed") return sign * ((Date.parse(first.changed) || 0) - (Date.parse(second.changed) || 0)) || by;
    if (key === "status") return sign * (STATUSES.indexOf(first.status) - STATUSES.indexOf(second.status)) || by;
    const [a, b] = [first.worst[key], second.worst[key]];
    if (!a || !b) return Boolean(b) - Boolean(a) || by;
    return sign * (GRADES.indexOf(a.severity) - GRADES.indexOf(b.severity) || a.expected - b.expected) || by;
  }

  function wanted(facts, given) {
    if (given.text && !facts.study.toLowerCase().includes(given.text.toLowerCase())) return false;
    if (given.status && facts.status !== given.status) return false;
    if (!given.grade) return true;
    const looked = given.condition ? [given.condition] : conditions;
    const worst = Math.max(...looked.map((name) => GRADES.indexOf(facts.worst[name]?.severity)));
    return given.grade === "worse" ? worst > 0 : GRADES[worst] === given.grade;
  }

  function arrange() {
    const given = Object.fromEntries(new FormData(filters));
    const shown = [...rows.values()].filter(({ facts }) => wanted(facts, given));
    shown.sort((first, second) => compared(first.facts, second.facts));
    const next = shown.map(({ row }) => row);
    if (next.length !== body.children.length || next.some((row, place) => row !== body.children[place])) {
      const focused = document.activeElement;
      body.replaceChildren(...next);
      if (focused.isConnected && body.contains(focused)) focused.focus({ preventScroll: true });
    }
    order = next;
    one("#count").textContent = `${shown.length} of ${rows.size} studies shown`;
    for (const head of heads) {
      if (head.dataset.key === sort.key) head.parentElement.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else head.parentElement.removeAttribute("aria-sort");
    }
    const kept = new URLSearchParams(Object.entries({ ...given, sort: (sort.down ? "-" : "") + sort.key }).filter(([, value]) => value));
    history.replaceState(null, "", `${location.pathname}#${kept}`); // which also takes the token out of sight
  }

  function restore() {
    const kept = new URLSearchParams(location.hash.slice(1)), key = (kept.get("sort") || "study").replace("-", "");
    if (heads.some((head) => head.dataset.key === key)) sort = { key, down: (kept.get("sort") || "").startsWith("-") };
    for (const field of filters.elements) if (kept.has(field.name)) field.value = kept.get(field.name);
  }

  function progress({ counts, left_s: left, trouble }) {
    const total = Object.values(counts).reduce((sum, count) => sum + count, 0), open = counts.waiting + counts.copying;
    const bar = one("#progress progress");
    bar.max = total || 1;
    bar.value = counts.graded + counts.failed;
    const parts = [`${counts.graded} of ${total} studies graded`];
    for (const status of ["waiting", "copying", "failed"]) if (counts[status]) parts.push(`${counts[status]} ${status}`);
    if (counts.waiting && left) parts.push(left < 90 ? `about ${left} seconds left` : `about ${Math.round(left / 60)} minutes left`);
    one("#progress span").textContent = parts.join(", ");
    say(trouble ? `Grading stands still: ${trouble}` : total && !open ? "Nothing is left to grade." : "", Boolean(trouble));
    return open;
  }

  function say(words, trouble) {
    if (said.textContent !== words) said.textContent = words;
    said.className = trouble ? "trouble" : "note";
  }

  async function update() {
    let pause = IDLE_MS;
    try {
      const answer = await fetch(`studies.json?since=${cursor}`);
      if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
      const news = await answer.json();
      if (news.whole) rows.clear();
      news.gone.forEach((study) => rows.delete(study));
      news.studies.forEach(replaceRow);
      cursor = news.cursor;
      if (news.whole || news.gone.length || news.studies.length) arrange();
      if (progress(news)) pause = BUSY_MS;
    } catch (error) {
      say(`The server does not answer (${error.message}); the list is that of ${clock.format(new Date())}.`, true);
    }
    setTimeout(update, pause);
  }

  heads.forEach((head) => head.addEventListener("click", () => {
    const key = head.dataset.key, worstFirst = key !== "study" && key !== "status";
    sort = { key, down: sort.key === key ? !sort.down : worstFirst };
    arrange();
  }));
  filters.addEventListener("input", arrange);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(arrange));
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], link = event.target.closest("a");
    if (!step || !link) return;
    event.preventDefault();
    let place = order.indexOf(link.closest("tr")) + step;
    while (order[place] && !order[place].querySelector("a")) place += step;
    order[place]?.querySelector("a").focus();
  });
  restore();
  update();
})();
