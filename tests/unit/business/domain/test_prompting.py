import pytest
from business_svc.domain.inference import Message
from business_svc.domain.prompting import PromptRules


def test_a_text_stands_where_the_template_says_whatever_braces_it_has() -> None:
    rules = PromptRules(predict_template="{a} Q: {text} A: {}")
    assert rules.predict_messages("{text} {0}") == (Message("user", "{a} Q: {text} {0} A: {}"),)


@pytest.mark.parametrize("template", ["", "no place", "{text} and {text}"])
def test_a_template_has_one_place(template: str) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        PromptRules(predict_template=template)


def test_the_servers_system_prompt_opens_a_conversation_that_brings_none() -> None:
    user, own = Message("user", "a"), Message("system", "mine")
    assert PromptRules().conversation([user]) == (user,)
    rules = PromptRules(system_prompt="be kind")
    assert rules.conversation([user]) == (Message("system", "be kind"), user)
    assert rules.conversation([own, user]) == (own, user)
