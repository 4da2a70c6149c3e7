"use strict";
(() => {
  const one = (selector) => document.querySelector(selector);
  const changes = [...document.querySelectorAll("details.change")];
  const form = one("#filter");
  const open = (id) => {
    const change = changes.find((each) => each.id === id);
    if (!change) return;
    if (change.hidden) form.reset(), show();
    change.open = true;
    change.style.contentVisibility = "visible"; // without its whole height it cannot be scrolled to the top
    change.scrollIntoView();
    change.firstElementChild.focus({ preventScroll: true });
  };
  // The search is over the visible text, which is collected once, when the first letter is typed.
  // On a page of several environments a change is also found by their names, and the table shows those that a change is for.
  const rows = [...document.querySelectorAll("#environments tr")];
  const names = rows.map((row) => row.firstElementChild.textContent.toLowerCase());
  const named = new Map();
  rows.forEach((row, place) => {
    const plan = row.dataset.plan;
    if (plan) named.set(plan, `${named.get(plan) ?? ""} ${names[place]}`);
  });
  const plans = (change) => (change.dataset.plans ?? "").split(" ").filter(Boolean);
  const text = (change) => [change.textContent.toLowerCase(), ...plans(change).map((plan) => named.get(plan) ?? "")].join(" ");
  let texts;
  const show = () => {
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) texts ??= changes.map(text);
    let left = 0;
    const seen = new Set();
    changes.forEach((change, place) => {
      const kind = form.kind.value;
      const fits =
        (!kind || change.dataset.kind === kind) &&
        (!form.worse.checked || "worse" in change.dataset) &&
        words.every((word) => texts[place].includes(word));
      change.hidden = !fits;
      left += fits;
      if (fits) plans(change).forEach((plan) => seen.add(plan));
    });
    // Words that are part of a name ask for these environments; else those are shown whose plans have a change that is shown.
    const asked = words.filter((word) => names.some((name) => name.includes(word)));
    rows.forEach((row, place) => {
      const own = words.length > 0 && words.every((word) => row.textContent.toLowerCase().includes(word));
      const fits = seen.has(row.dataset.plan) && asked.every((word) => names[place].includes(word));
      row.hidden = (words.length > 0 || left < changes.length) && !own && !fits;
    });
    const count = (number) => number.toLocaleString("en");
    one("#count").textContent =
      left === changes.length ? `all ${count(left)} changes` : `${count(left)} of ${count(changes.length)} changes`;
    one("#none").hidden = left > 0;
  };
  // What scrolls sideways gets keyboard focus, in every browser. Measuring forces a layout, so only elements near the view.
  const near = new IntersectionObserver(
    (seen) => {
      const shown = seen.filter((each) => each.isIntersecting).map((each) => each.target);
      const scrolled = shown.map((each) => each.scrollWidth > each.clientWidth); // measure all before changing any
      shown.forEach((each, place) => (each.tabIndex = scrolled[place] ? 0 : -1));
    },
    { rootMargin: "100%" },
  );
  document.querySelectorAll(".wide").forEach((wide) => near.observe(wide));
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  if (form) {
    one("#controls").hidden = false;
    form.addEventListener("input", show);
    form.addEventListener("reset", () => setTimeout(show));
    form.addEventListener("submit", (event) => event.preventDefault());
    one("#expand").addEventListener("click", () => changes.forEach((change) => (change.open ||= !change.hidden)));
    one("#collapse").addEventListener("click", () => changes.forEach((change) => (change.open = false)));
    addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && event.target !== form.text) {
        event.preventDefault();
        form.text.focus();
      } else if (event.key === "Escape" && event.target === form.text) {
        form.reset();
      }
    });
    show();
  }
  open(location.hash.slice(1));
})();
