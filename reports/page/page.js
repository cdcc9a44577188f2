"use strict";
// Sorting and hover only: without scripts the page shows all that it has.

function sortable(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table.tBodies[0], column, down ? -1 : 1);
    });
  });
}

function sort(body, column, sign) {
  const rows = Array.from(body.rows).map((row, place) => {
    const field = row.cells[Math.min(column, row.cells.length - 1)]; // a failed row has fewer
    const number = field.hasAttribute("data-n") ? Number(field.dataset.n) : null;
    return { row, place, number, text: field.textContent };
  });
  rows.sort((a, b) => {
    if (a.number === null || b.number === null) {
      // what has no number comes last, in either direction
      if (a.number !== b.number) return a.number === null ? 1 : -1;
      return sign * a.text.localeCompare(b.text) || a.place - b.place;
    }
    return sign * (a.number - b.number) || a.place - b.place;
  });
  body.append(...rows.map((entry) => entry.row));
}

function hover() {
  const box = document.createElement("div");
  box.className = "hover";
  box.hidden = true;
  document.body.append(box);
  document.querySelectorAll("svg .tip").forEach((mark) => {
    const title = mark.querySelector("title");
    const text = title.textContent;
    mark.addEventListener("pointerenter", () => {
      title.textContent = ""; // else the browser shows it a second time
      box.textContent = text;
      box.hidden = false;
    });
    mark.addEventListener("pointermove", (event) => {
      const right = window.innerWidth - box.offsetWidth - 8;
      const above = event.clientY - box.offsetHeight - 14;
      const top = above > 4 ? above : event.clientY + 18;
      box.style.transform = `translate(${Math.max(4, Math.min(event.clientX + 12, right))}px, ${top}px)`;
    });
    mark.addEventListener("pointerleave", () => {
      title.textContent = text;
      box.hidden = true;
    });
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
hover();
