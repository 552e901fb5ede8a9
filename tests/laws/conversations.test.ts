import { conversationsSuite } from "./conversations.suite.js";

conversationsSuite({ numConversations: 60 });
