// What the JavaScript examples ask about: a preamble, passages as retrieval returns them, a question's own part, and retrieval.
export const preamble =
  "You are an intelligent AI assistant. Please answer questions based on the user's instructions. Below are some reference documents that may help you in answering the user's question.\n\n";

export const documents = [
  {
    title: "The Lost Daughter",
    text: "The Lost Daughter is a 2021 American drama film directed by Maggie Gyllenhaal and starring Olivia Colman and Dakota Johnson.",
  },
  {
    title: "Maggie Gyllenhaal",
    text: "Maggie Gyllenhaal (born 16 November 1977 in New York City) is an American film director. She is the daughter of screenwriter Naomi Foner and director Stephen Gyllenhaal.",
  },
  { title: "Frida Kahlo", text: "Frida Kahlo was a Mexican painter. She was born in Mexico City." },
];

export const passages = documents.map(({ title, text }) => `- Title: ${title}\n${text}\n`);

export function task(question) {
  return `Please write a high-quality answer for the given question using only the provided search documents (some of which might be irrelevant).\nQuestion: ${question}`;
}

const words = (text) => new Set(text.toLowerCase().match(/\w{3,}/g));

/** The two documents that share the most words with a question: a vector store in its place does the same. */
export function retrieve(question) {
  const asked = words(question);
  const shared = ({ title, text }) => [...words(`${title} ${text}`)].filter((word) => asked.has(word)).length;
  return documents.toSorted((a, b) => shared(b) - shared(a)).slice(0, 2);
}
