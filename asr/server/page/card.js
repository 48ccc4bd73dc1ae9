// The model card: what Markdown the cards of this project use, as elements. Text stays text.

/** The elements of a card. */
export function renderCard(markdown) {
  const blocks = markdown.trim().split(/\n\s*\n/);
  return blocks.map((block) => renderBlock(block.split("\n"))).filter(Boolean);
}

function renderBlock(lines) {
  const heading = lines[0].match(/^#+ (.*)/);
  if (heading) return heading[0].startsWith("## ") ? make("h3", heading[1]) : null; // the title is known
  if (lines[0].startsWith("|")) return renderTable(lines);
  if (/^(-|\d+\.) /.test(lines[0])) {
    const list = make(lines[0].startsWith("-") ? "ul" : "ol");
    list.append(...joinItems(lines).map((text) => make("li", text)));
    return list;
  }
  return make("p", lines.join(" "));
}

/** The items of a list, whose text may go on in the next line. */
function joinItems(lines) {
  const items = [];
  for (const line of lines) {
    const item = line.match(/^(?:-|\d+\.) (.*)/);
    if (item) items.push(item[1]);
    else items.push(`${items.pop()} ${line.trim()}`);
  }
  return items;
}

function renderTable(lines) {
  const rows = lines.map((line) => line.replace(/^\||\|\s*$/g, "").split("|").map((cell) => cell.trim()));
  const table = make("table");
  rows.filter((_, index) => index !== 1).forEach((cells, index) => {
    const row = make("tr");
    row.append(...cells.map((cell) => make(index ? "td" : "th", cell)));
    table.append(row);
  });
  const frame = make("div"); // scrolls, so that the page need not
  frame.className = "table";
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "Table");
  frame.append(table);
  return frame;
}

function make(name, markdown = "") {
  const element = document.createElement(name);
  element.textContent = markdown.replace(/[`*]/g, "");
  return element;
}
