import { conversationsSuite } from "./conversations.suite.js";

conversationsSuite({ numConversations: 2000 });
