"""Programs that hold conversations with a vendor's SDK. They run in that SDK's environment, which has nothing of ours.

holding.py           what they share: reading what to ask, the order of a conversation, telling what was said
anthropic_client.py  anthropic
gemini_client.py     google-genai
bedrock_client.py    boto3
dashscope_client.py  dashscope
zhipu_client.py      zhipuai, or zai-sdk, whichever the environment has
"""
