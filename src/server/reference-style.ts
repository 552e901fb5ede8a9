/** The reference page's stylesheet: light and dark, wide and narrow. */
export const referenceStyle = `
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --dim: light-dark(#555, #aaa); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
code, .path { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.operation { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; }
.operation > summary { padding: .6rem .8rem; cursor: pointer; display: flex; flex-wrap: wrap; gap: .2rem .8rem; }
.operation > summary:focus-visible { outline: 2px solid Highlight; }
.operation[open] > summary { border-bottom: 1px solid var(--line); background: var(--soft); border-radius: .5rem .5rem 0 0; }
.method { font-weight: 700; min-width: 4rem; } .about { color: var(--dim); }
.body { padding: .2rem .8rem .8rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
ul { margin: .2rem 0; padding-left: 1.2rem; } li { margin: .25rem 0; }
.type, .limits { color: var(--dim); } table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--line); padding: .3rem .6rem .3rem 0; vertical-align: top; }
`;
