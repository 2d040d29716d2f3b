// Elements and numbers of the page. Texts are set as text, never as markup: answers, questions and file names are data.

export const byId = (id) => document.getElementById(id);

export const config = JSON.parse(byId("config").textContent);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function setOptions(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
  select.value = options.some(([value]) => value === chosen) ? chosen : (options[0]?.[0] ?? "");
}

export const seconds = (value) => (value === null ? "n/a" : value < 1 ? `${Math.round(1000 * value)} ms` : `${value.toFixed(2)} s`);

// The message of a refused request; the server says what is wrong, which value it had and what is allowed.
export async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}
